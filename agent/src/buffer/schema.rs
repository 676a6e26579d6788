//! The file's layout and its migrations; a file is only ever moved forward, never made anew.

use rusqlite::Connection;

use super::error::{BufferError, sql};

/// One step a version; a released step is never edited.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE epochs(
        id INTEGER PRIMARY KEY, uuid BLOB NOT NULL UNIQUE, spent INTEGER NOT NULL DEFAULT 0,
        next_batch INTEGER NOT NULL DEFAULT 1, next_seq INTEGER NOT NULL DEFAULT 1,
        acked_through INTEGER NOT NULL DEFAULT 0, hub_instance BLOB NOT NULL DEFAULT x'', reason TEXT NOT NULL);
    CREATE TABLE pending(
        seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL, sensor INTEGER, time INTEGER, value REAL,
        flags INTEGER, body BLOB);
    CREATE TABLE sensors(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE batches(
        id INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER NOT NULL, number INTEGER NOT NULL,
        first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, sealed_ms INTEGER NOT NULL,
        boot_id TEXT NOT NULL, monotonic_ms INTEGER NOT NULL, status INTEGER NOT NULL DEFAULT 0,
        contested INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL, digest BLOB NOT NULL, payload BLOB,
        UNIQUE(epoch, number));
    CREATE INDEX batches_by_status ON batches(status, id);
    CREATE TABLE recent(
        sensor INTEGER NOT NULL, time INTEGER NOT NULL, value REAL NOT NULL, flags INTEGER NOT NULL,
        PRIMARY KEY(sensor, time)) WITHOUT ROWID;
    CREATE TABLE state(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE counters(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE refused(
        id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, batch INTEGER NOT NULL, seq INTEGER NOT NULL,
        reason TEXT NOT NULL, UNIQUE(epoch, seq));
", "
    CREATE TABLE hub(
        id INTEGER PRIMARY KEY CHECK (id = 1), instance BLOB NOT NULL, boot_id TEXT NOT NULL, heard_ms INTEGER NOT NULL);
    INSERT INTO hub SELECT 1, hub_instance, '', 0 FROM epochs WHERE hub_instance != x'' ORDER BY id DESC LIMIT 1;
    ALTER TABLE batches ADD COLUMN gaps BLOB;
    ALTER TABLE batches ADD COLUMN only_gaps INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE totals(
        id INTEGER PRIMARY KEY CHECK (id = 1), batches INTEGER NOT NULL, records INTEGER NOT NULL,
        bytes INTEGER NOT NULL, tail INTEGER NOT NULL);
    INSERT INTO totals SELECT 1, coalesce(sum(status = 0), 0),
        coalesce(sum((status = 0) * (last_seq - first_seq + 1)), 0),
        coalesce(sum((status = 0) * bytes), 0), coalesce(sum((status = 1) * bytes), 0) FROM batches;
    CREATE TRIGGER batches_added AFTER INSERT ON batches BEGIN
        UPDATE totals SET batches = batches + (new.status = 0),
            records = records + (new.status = 0) * (new.last_seq - new.first_seq + 1),
            bytes = bytes + (new.status = 0) * new.bytes, tail = tail + (new.status = 1) * new.bytes;
    END;
    CREATE TRIGGER batches_changed AFTER UPDATE OF status, bytes, first_seq, last_seq ON batches BEGIN
        UPDATE totals SET batches = batches - (old.status = 0) + (new.status = 0),
            records = records - (old.status = 0) * (old.last_seq - old.first_seq + 1)
                + (new.status = 0) * (new.last_seq - new.first_seq + 1),
            bytes = bytes - (old.status = 0) * old.bytes + (new.status = 0) * new.bytes,
            tail = tail - (old.status = 1) * old.bytes + (new.status = 1) * new.bytes;
    END;
    CREATE TRIGGER batches_removed AFTER DELETE ON batches BEGIN
        UPDATE totals SET batches = batches - (old.status = 0),
            records = records - (old.status = 0) * (old.last_seq - old.first_seq + 1),
            bytes = bytes - (old.status = 0) * old.bytes, tail = tail - (old.status = 1) * old.bytes;
    END;
    CREATE TABLE refused_new(
        id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, batch INTEGER NOT NULL, seq INTEGER NOT NULL,
        reason TEXT NOT NULL, UNIQUE(epoch, batch, seq));
    INSERT INTO refused_new SELECT * FROM refused;
    DROP TABLE refused;
    ALTER TABLE refused_new RENAME TO refused;
    CREATE INDEX batches_of_gaps ON batches(id) WHERE status = 0 AND only_gaps = 1;
    CREATE INDEX batches_by_epoch ON batches(epoch, status);
    ALTER TABLE epochs ADD COLUMN forgotten_batch INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE epochs ADD COLUMN forgotten_seq INTEGER NOT NULL DEFAULT 0;
    UPDATE epochs SET
        forgotten_batch = coalesce((SELECT min(number) - 1 FROM batches b WHERE b.epoch = epochs.id), 0),
        forgotten_seq = coalesce((SELECT min(first_seq) - 1 FROM batches b WHERE b.epoch = epochs.id), 0);
", "
    ALTER TABLE epochs ADD COLUMN last_acked INTEGER NOT NULL DEFAULT 0;
"];

/// Sets up a connection and brings the file to the newest layout.
pub(super) fn prepare(db: &mut Connection) -> Result<(), BufferError> {
    let setup = sql("opening");
    // Must come before the first table, and does nothing to a file that has some.
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL")
        .map_err(&setup)?;
    db.pragma_update(None, "journal_mode", "WAL")
        .map_err(&setup)?;
    db.pragma_update(None, "synchronous", "FULL")
        .map_err(&setup)?;
    db.pragma_update(None, "cache_size", -512).map_err(&setup)?;
    db.pragma_update(None, "journal_size_limit", 4 << 20)
        .map_err(&setup)?;
    db.pragma_update(None, "temp_store", "MEMORY")
        .map_err(&setup)?;
    db.set_prepared_statement_cache_capacity(64);
    migrate(db, MIGRATIONS)
}

fn migrate(db: &mut Connection, steps: &[&str]) -> Result<(), BufferError> {
    let step = sql("migrating the layout");
    let found: i64 = db
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(&step)?;
    let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(BufferError::Newer { found, known });
    }
    for (version, text) in (1_i64..)
        .zip(steps)
        .skip(usize::try_from(found).unwrap_or(0))
    {
        let tx = db.transaction().map_err(&step)?;
        tx.execute_batch(text).map_err(&step)?;
        tx.pragma_update(None, "user_version", version)
            .map_err(&step)?;
        tx.commit().map_err(&step)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn steps_run_once_keep_rows_and_a_newer_file_is_refused() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db, &["CREATE TABLE a(x)"]).unwrap();
        db.execute("INSERT INTO a VALUES (7)", []).unwrap();
        let two = ["CREATE TABLE a(x)", "ALTER TABLE a ADD COLUMN y DEFAULT 3"];
        migrate(&mut db, &two).unwrap();
        migrate(&mut db, &two).unwrap();
        let row: (i64, i64) = db
            .query_row("SELECT x, y FROM a", [], |r| Ok((r.get(0)?, r.get(1)?)))
            .unwrap();
        assert_eq!(row, (7, 3));
        assert!(matches!(
            migrate(&mut db, &two[..1]),
            Err(BufferError::Newer { found: 2, known: 1 })
        ));
    }
}
