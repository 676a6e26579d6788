-- Since when devices are heard without a break: what a rollout waits for does not pass by while nobody listens. Forward only.

CREATE TABLE listening (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    since timestamptz NOT NULL,
    seen  timestamptz NOT NULL      -- when the leader said so last
);
