//! Opening: owns the integrity check, quarantine and the counters' start; never repairs a file in place.

use std::collections::HashMap;
use std::path::Path;

use fieldcast_wire::Epoch;
use rusqlite::{Connection, OptionalExtension, params};

use super::ballast::Ballast;
use super::counters::Counters;
use super::error::{BufferError, sql};
use super::log_index::Witness;
use super::seal;
use super::store::{Current, Store};
use super::types::Limits;
use super::{number, salvage, schema, stamp, unsigned};
use crate::clock::Clock;

/// Files up to this size are checked at every start; larger ones only after an unclean end.
const ALWAYS_CHECKED: u64 = 32 << 20;

impl Store {
    /// Opens the buffer, or makes it; a damaged file is set aside and what can be read is kept.
    ///
    /// # Errors
    /// A folder that is not writable, a failing disk, or a file of a newer agent.
    pub fn open(limits: Limits, clock: Clock) -> Result<Self, BufferError> {
        std::fs::create_dir_all(&limits.dir).map_err(|source| BufferError::Io {
            operation: "creation",
            path: limits.dir.clone(),
            source,
        })?;
        salvage::finish(&limits, &clock)?;
        let file = Self::file(&limits);
        let known = Counters::read(&limits.dir);
        let witness = Witness::new(&file, known.machine == clock.boot_id());
        let mut opened = Self::attempt(&limits, &clock, Some(&witness), &file);
        if let Err(e) = &opened
            && (e.is_full() || e.is_io())
            && Ballast::new(&limits).release()
        {
            opened = Self::attempt(&limits, &clock, Some(&witness), &file);
        }
        let mut store = match opened {
            Err(e) if e.is_damage() => Self::salvaged(limits, clock, &e.to_string(), 0)?,
            opened => opened?,
        };
        if let Some(epoch) = Counters::read(&store.limits.dir).epoch {
            salvage::miss(&mut store, epoch)?;
        }
        store.restore_ballast();
        Ok(store)
    }

    /// Makes a new file with what can be read, then sets the damaged one aside: whatever interrupts it, one of both is
    /// there. Places in the order of sending go on
    /// after `newest`, so that who follows them sees all of it as new.
    pub(super) fn salvaged(
        limits: Limits,
        clock: Clock,
        cause: &str,
        newest: i64,
    ) -> Result<Self, BufferError> {
        tracing::error!(
            cause,
            "the buffer is damaged: it is set aside, what can be read is kept"
        );
        let known = Counters::read(&limits.dir);
        let file = Self::file(&limits);
        let part = salvage::begin(&limits)?;
        let mut store = Self::attempt(&limits, &clock, None, &part)?;
        store
            .db
            .execute(
                "INSERT INTO sqlite_sequence(name, seq) VALUES ('batches', ?1)",
                [newest],
            )
            .map_err(sql("salvaging"))?;
        salvage::take_over(&mut store, &file, &known)?;
        store
            .db
            .close()
            .map_err(|(_, e)| sql("closing the salvaged file")(e))?;
        salvage::finish(&limits, &clock)?;
        Self::attempt(&limits, &clock, None, &file)
    }

    fn attempt(
        limits: &Limits,
        clock: &Clock,
        check: Option<&Witness>,
        file: &Path,
    ) -> Result<Self, BufferError> {
        let step = sql("opening");
        let size = std::fs::metadata(file).map_or(0, |m| m.len());
        let fresh = size == 0;
        let mut db = Connection::open(file).map_err(&step)?;
        if let (Some(witness), false) = (check, fresh) {
            verify(&db, size)?;
            verify_log(limits, witness, file)?;
        }
        schema::prepare(&mut db)?;
        let found: Option<(i64, Epoch, i64)> = db
            .query_row(
                "SELECT id, uuid, next_seq FROM epochs ORDER BY id DESC LIMIT 1",
                [],
                |r| Ok((r.get(0)?, seal::epoch(r, 1)?, r.get(2)?)),
            )
            .optional()
            .map_err(&step)?;
        let (id, epoch, next) = match found {
            Some(found) => found,
            None => {
                let epoch = Epoch(uuid::Uuid::new_v4());
                db.execute(
                    "INSERT INTO epochs(uuid, reason) VALUES (?1, 'new buffer')",
                    [epoch.to_vec()],
                )
                .map_err(&step)?;
                (db.last_insert_rowid(), epoch, 1)
            }
        };
        let sensors = {
            let mut statement = db.prepare("SELECT name, id FROM sensors").map_err(&step)?;
            let rows = statement
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
                .map_err(&step)?;
            rows.collect::<Result<HashMap<_, _>, _>>().map_err(&step)?
        };
        let last_stamp: Option<i64> = db
            .query_row(
                "SELECT max(monotonic_ms) FROM (SELECT monotonic_ms, boot_id FROM batches ORDER BY id DESC LIMIT 64)
                    WHERE boot_id = ?1",
                [clock.boot_id()],
                |r| r.get(0),
            )
            .map_err(&step)?;
        let last_stamp = last_stamp.unwrap_or(i64::MIN);
        let noted = stamp::load(&db)?;
        set(&db, "clean", 0).map_err(&step)?;
        sync_folder(&limits.dir);
        let mut store = Self {
            db,
            limits: limits.clone(),
            clock: clock.clone(),
            current: Current {
                id,
                epoch,
                next_seq: unsigned(next),
            },
            sensors,
            pending: 0,
            pending_bytes: 0,
            last_stamp,
            noted,
            linked: true,
            since_trim: 0,
            commits: 0,
            gave_back_ms: None,
            ballast: Ballast::new(limits),
        };
        store.recount()?;
        Ok(store)
    }

    /// Counts this start of the agent; from 1, never twice the same.
    ///
    /// # Errors
    /// A failing disk.
    pub fn begin_boot(&mut self) -> Result<u64, BufferError> {
        self.advance("boot", |c| &mut c.boot)
    }

    /// Counts a connection; from 1, never twice the same.
    ///
    /// # Errors
    /// A failing disk.
    pub fn next_session(&mut self) -> Result<u64, BufferError> {
        self.advance("session", |c| &mut c.session)
    }

    /// Keeps the current epoch beside the file, so that the loss of the file can be told of.
    pub(super) fn note_epoch(&self) {
        let mut kept = Counters::read(&self.limits.dir);
        kept.epoch = Some(self.current.epoch);
        if let Err(e) = kept.write(&self.limits.dir) {
            tracing::warn!("{e}");
        }
    }

    fn advance(
        &mut self,
        key: &str,
        field: impl Fn(&mut Counters) -> &mut u64,
    ) -> Result<u64, BufferError> {
        let mut kept = Counters::read(&self.limits.dir);
        let next = (*field(&mut kept)).max(self.counter(key)?) + 1;
        let counted = set(&self.db, key, next).map_err(sql("counting"));
        if let Err(e) = counted {
            if !self.is_full(&e) {
                return Err(e);
            }
            self.make_room(true)?;
            set(&self.db, key, next).map_err(sql("counting"))?;
        }
        *field(&mut kept) = next;
        kept.epoch = Some(self.current.epoch);
        self.clock.boot_id().clone_into(&mut kept.machine);
        // The counter in the buffer holds even where this second copy cannot be written.
        if let Err(e) = kept.write(&self.limits.dir) {
            tracing::warn!("{e}");
        }
        Ok(next)
    }

    /// Ends in order: the next start may skip the long check.
    ///
    /// # Errors
    /// A failing disk.
    pub fn close(self) -> Result<(), BufferError> {
        set(&self.db, "clean", 1).map_err(sql("closing"))?;
        self.db.close().map_err(|(_, e)| sql("closing")(e))
    }
}

fn set(db: &Connection, key: &str, value: u64) -> rusqlite::Result<()> {
    db.execute(
        "INSERT OR REPLACE INTO counters(key, value) VALUES (?1, ?2)",
        params![key, number(value)],
    )
    .map(|_| ())
}

fn verify(db: &Connection, size: u64) -> Result<(), BufferError> {
    let step = sql("checking the file");
    // A read that touches the header and the schema.
    db.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))
        .map_err(&step)?;
    let clean: Option<i64> = db
        .query_row("SELECT value FROM counters WHERE key = 'clean'", [], |r| {
            r.get(0)
        })
        .optional()
        .unwrap_or_default();
    if clean == Some(1) && size > ALWAYS_CHECKED {
        return Ok(());
    }
    let verdict: String = db
        .query_row("PRAGMA quick_check(1)", [], |r| r.get(0))
        .map_err(&step)?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(BufferError::Damaged {
        what: format!("the file ({})", verdict.replace('\n', " ")),
    })
}

/// A log that lacks its end is damage. That is written down first: once this connection is closed, nothing shows it any more.
fn verify_log(limits: &Limits, witness: &Witness, file: &Path) -> Result<(), BufferError> {
    let mut known = Counters::read(&limits.dir);
    if witness.misses(file) && !known.log_lost {
        known.log_lost = true;
        known.write(&limits.dir)?;
    }
    match known.log_lost {
        false => Ok(()),
        true => Err(BufferError::Damaged {
            what: "the end of its log".into(),
        }),
    }
}

pub(super) fn sync_folder(dir: &Path) {
    if let Err(e) = std::fs::File::open(dir).and_then(|d| d.sync_all()) {
        tracing::warn!(folder = %dir.display(), "the folder could not be synced: {e}");
    }
}
