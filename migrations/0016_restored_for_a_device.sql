-- New where a device proved that this database forgot what it had acknowledged to it; part of the instance it is told.
ALTER TABLE devices ADD COLUMN restored uuid;
