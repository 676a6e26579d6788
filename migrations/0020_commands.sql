-- What persons told devices to do. Forward only.

CREATE TABLE commands (
    id           uuid PRIMARY KEY,
    device       text NOT NULL REFERENCES devices(id),
    name         text NOT NULL,
    argument     text NOT NULL,
    given_by     text NOT NULL,
    given_at     timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    published_at timestamptz,
    ended_at     timestamptz,                       -- with an outcome, or expired
    ok           boolean,                           -- of the outcome; one that comes after expiry still counts
    message      text NOT NULL DEFAULT ''
);
CREATE INDEX commands_by_time ON commands (given_at, id);
CREATE INDEX commands_open ON commands (device) WHERE ok IS NULL;
-- An outcome's subject is the command's id.
CREATE INDEX outcomes_by_subject ON outcomes (subject);
