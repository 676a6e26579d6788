//! Table `commands`: owns what persons told devices to do and what became of it, never how it is told.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::types::Uuid;

use crate::Store;
use crate::error::{Context as _, Result};

/// A command about to be stored.
#[derive(Debug, Clone, Copy)]
pub struct NewCommand<'a> {
    /// Unique: it is carried out once under it.
    pub id: Uuid,
    /// To whom.
    pub device: &'a str,
    /// What to do.
    pub name: &'a str,
    /// With what.
    pub argument: &'a str,
    /// The person.
    pub given_by: &'a str,
    /// After which the device refuses it.
    pub expires_at: DateTime<Utc>,
}

/// A command.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct CommandRow {
    /// Its id; the subject of its outcome.
    pub id: Uuid,
    /// To whom.
    pub device: String,
    /// What to do.
    pub name: String,
    /// With what.
    pub argument: String,
    /// `waiting` for the broker, `sent`, `done`, `failed` or `expired`.
    pub state: String,
    /// What the device said, or why there is nothing to say.
    pub message: String,
    /// The person.
    pub given_by: String,
    /// When it was given.
    pub given_at: DateTime<Utc>,
    /// After which the device refuses it.
    pub expires_at: DateTime<Utc>,
    /// When the broker got it.
    pub published_at: Option<DateTime<Utc>>,
    /// When its outcome came or it expired.
    pub ended_at: Option<DateTime<Utc>>,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, device, name, argument, CASE WHEN ok THEN 'done' WHEN NOT ok THEN 'failed'
                WHEN ended_at IS NOT NULL THEN 'expired' WHEN published_at IS NOT NULL THEN 'sent' ELSE 'waiting' END
                AS state, message, given_by, given_at, expires_at, published_at, ended_at FROM commands ",
            $rest
        )
    };
}

impl Store {
    /// Stores a command; false where the device has `most` open ones already.
    ///
    /// # Errors
    /// The database.
    pub async fn put_command(&self, new: &NewCommand<'_>, most: i64) -> Result<bool> {
        let failed = || format!("give {} to device {}", new.name, new.device);
        let mut tx = self.pool().begin().await.during(failed())?;
        // One after the other, so that two cannot both be the last that has room.
        sqlx::query("SELECT FROM devices WHERE id = $1 FOR UPDATE")
            .bind(new.device)
            .execute(&mut *tx)
            .await
            .during(failed())?;
        let done = sqlx::query(
            "INSERT INTO commands (id, device, name, argument, given_by, expires_at)
             SELECT $1, $2, $3, $4, $5, $6
             WHERE (SELECT count(*) FROM commands WHERE device = $2 AND ended_at IS NULL) < $7",
        )
        .bind(new.id)
        .bind(new.device)
        .bind(new.name)
        .bind(new.argument)
        .bind(new.given_by)
        .bind(new.expires_at)
        .bind(most)
        .execute(&mut *tx)
        .await
        .during(failed())?;
        tx.commit().await.during(failed())?;
        Ok(done.rows_affected() > 0)
    }

    /// Commands of these devices that have no outcome and have not expired, oldest first.
    ///
    /// # Errors
    /// The database.
    pub async fn open_commands_of(&self, devices: &[String]) -> Result<Vec<CommandRow>> {
        sqlx::query_as(select!(
            "WHERE device = ANY($1) AND ok IS NULL AND ended_at IS NULL ORDER BY given_at, id"
        ))
        .bind(devices)
        .fetch_all(self.pool())
        .await
        .during(format!("read the commands of {} devices", devices.len()))
    }

    /// Commands that no broker has got yet: id and device.
    ///
    /// # Errors
    /// The database.
    pub async fn unpublished_commands(&self) -> Result<Vec<(Uuid, String)>> {
        sqlx::query_as(
            "SELECT id, device FROM commands WHERE ok IS NULL AND ended_at IS NULL AND published_at IS NULL",
        )
        .fetch_all(self.pool())
        .await
        .during("look for commands to publish")
    }

    /// The broker has got these.
    ///
    /// # Errors
    /// The database.
    pub async fn published_commands(&self, ids: &[Uuid]) -> Result<()> {
        sqlx::query("UPDATE commands SET published_at = now() WHERE id = ANY($1)")
            .bind(ids)
            .execute(self.pool())
            .await
            .map(drop)
            .during("note that commands were published")
    }

    /// Ends commands whose outcome is stored, and those that expired before `now`; returns their devices.
    ///
    /// # Errors
    /// The database.
    pub async fn settle_commands(&self, now: DateTime<Utc>) -> Result<Vec<String>> {
        let mut devices: Vec<String> = sqlx::query_scalar(
            "UPDATE commands c SET ended_at = o.received_at, ok = o.ok, message = o.message FROM outcomes o
             WHERE c.ok IS NULL AND o.subject = c.id::text AND o.device = c.device RETURNING c.device",
        )
        .fetch_all(self.pool())
        .await
        .during("take up the outcomes of commands")?;
        let expired: Vec<String> = sqlx::query_scalar(
            "UPDATE commands SET ended_at = $1, message = CASE WHEN published_at IS NULL
                THEN 'it expired before a broker could take it; is the hub connected?'
                ELSE 'it expired without an outcome; is the device connected? What it still says will be shown' END
             WHERE ok IS NULL AND ended_at IS NULL AND expires_at <= $1 RETURNING device",
        )
        .bind(now)
        .fetch_all(self.pool())
        .await
        .during("end commands that expired")?;
        devices.extend(expired);
        devices.sort();
        devices.dedup();
        Ok(devices)
    }

    /// One command.
    ///
    /// # Errors
    /// The database.
    pub async fn command(&self, id: Uuid) -> Result<Option<CommandRow>> {
        sqlx::query_as(select!("WHERE id = $1"))
            .bind(id)
            .fetch_optional(self.pool())
            .await
            .during(format!("read command {id}"))
    }

    /// Commands, newest first, of one device or of all.
    ///
    /// # Errors
    /// The database.
    pub async fn commands(
        &self,
        device: Option<&str>,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<CommandRow>> {
        sqlx::query_as(select!(
            "WHERE $1::text IS NULL OR device = $1 ORDER BY given_at DESC, id LIMIT $3 OFFSET $2"
        ))
        .bind(device)
        .bind(offset)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .during("list commands")
    }
}
