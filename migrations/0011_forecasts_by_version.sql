-- The newest forecast of a model version is asked for with each look at its errors. Forward only.
CREATE INDEX forecasts_by_version ON forecasts (forecaster, model_version, origin) WHERE NOT shadow;
