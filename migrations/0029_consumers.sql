-- Who may read what the hub republishes, at the embedded broker. Forward only.

CREATE TABLE consumers (
    name       text PRIMARY KEY,
    token_hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
