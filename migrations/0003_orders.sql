-- Orders are given under one lock a forecaster, which asks for the highest generation first. Forward only.

CREATE INDEX desired_by_generation ON desired (forecaster, generation);
