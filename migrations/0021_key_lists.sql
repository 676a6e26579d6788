-- The lists of hub keys that the root signed; the newest is in force. Forward only.

CREATE TABLE key_lists (
    version      bigint PRIMARY KEY,
    signed       bytea NOT NULL,
    installed_by text NOT NULL,
    installed_at timestamptz NOT NULL DEFAULT now()
);
