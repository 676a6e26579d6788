-- The hub itself asks that a rollout goes back, where the world has changed since its version learnt from it, and says why. Forward only.

ALTER TABLE rollout_commands ADD COLUMN reason text NOT NULL DEFAULT '';
ALTER TABLE rollout_commands DROP CONSTRAINT rollout_commands_command_check;
ALTER TABLE rollout_commands ADD CONSTRAINT rollout_commands_command_check
    CHECK (command IN ('pause', 'resume', 'approve', 'abort', 'outdate'));
