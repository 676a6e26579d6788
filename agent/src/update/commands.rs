//! Carries out what the hub commands: owns the order of writing and doing, never who may command or what was taken before.

use fieldcast_bundle::{KeyRing, Me, OrderError, VerifiedCommand, verify_command};
use fieldcast_device::commands::{Commands, Task, Verdict, found_at_start};
use fieldcast_wire::caps::MAX_TEXT;
use fieldcast_wire::{RecordBody, message, pb};

use crate::buffer::{BufferError, BufferHandle, Commit};
use crate::clock::Clock;
use crate::control::Control;
use crate::status::board::Board;
use crate::status::words;

/// State key of the commands that were taken.
const KEY: &str = "commands";

/// What a command is told that may have been on a list that was lost.
const UNSURE: &str = "the list of commands that were carried out was damaged and this one may have been on it: it is not carried out; \
                      give it anew for the longest time, 30 days";

/// What commands need.
pub struct Desk {
    /// For what was taken, and for outcomes.
    pub buffer: BufferHandle,
    /// For expiry.
    pub clock: Clock,
    /// What a report tells.
    pub board: std::sync::Arc<Board>,
    /// What a command may do to the process.
    pub control: Control,
}

/// The commands of a running agent.
pub struct AtWork {
    desk: Desk,
    known: Option<Commands>,
}

impl AtWork {
    /// None taken up yet.
    #[must_use]
    pub fn new(desk: Desk) -> Self {
        Self { desk, known: None }
    }

    /// Takes up what is stored and records the outcome of what the process before had begun; tried again while the disk fails,
    /// since a command that is not remembered would be carried out a second time.
    async fn known(&mut self) -> Result<&mut Commands, BufferError> {
        if self.known.is_none() {
            let stored = self.desk.buffer.state(KEY).await?;
            let read = stored.map(|bytes| serde_json::from_slice::<Commands>(&bytes));
            let lost = matches!(read, Some(Err(_)));
            let mut known = match read {
                None => Commands::default(),
                Some(Ok(known)) => known,
                Some(Err(e)) => {
                    tracing::error!(
                        "the list of commands that were taken cannot be read ({e}): what may be on it is refused; give commands anew"
                    );
                    Commands::lost(self.desk.clock.wall_ms())
                }
            };
            let mut records = Vec::new();
            for taken in known.open() {
                let (ok, message) = found_at_start(&taken);
                records.push(self.outcome(&taken.id, ok, message));
                known.end(&taken.id);
            }
            if lost || !records.is_empty() {
                self.keep(&known, records).await?;
            }
            self.known = Some(known);
        }
        Ok(self.known.get_or_insert_default())
    }

    /// Says what became of commands that the process before had begun.
    pub(super) async fn started(&mut self) {
        if let Err(e) = self.known().await {
            tracing::error!("take up the commands: {e}; tried again with the next");
        }
    }

    fn outcome(&self, id: &str, ok: bool, text: &str) -> RecordBody {
        RecordBody::Outcome(pb::Outcome {
            seq: 0,
            subject: id.to_owned(),
            ok,
            message: text[..text.floor_char_boundary(MAX_TEXT)].to_owned(),
            time_ms: self.desk.clock.wall_ms(),
        })
    }

    async fn keep(&self, known: &Commands, records: Vec<RecordBody>) -> Result<(), BufferError> {
        let state = serde_json::to_vec(known).unwrap_or_default();
        let commit = Commit {
            records,
            state: vec![(KEY.to_owned(), state)],
            ..Commit::default()
        };
        self.desk.buffer.commit(commit).await.map(drop)
    }

    /// A command came. What is refused before its address held says nothing of who sent it, so that only the caller tells it;
    /// what is refused later is told as its outcome.
    pub(super) async fn heard(
        &mut self,
        signed: &pb::Signed,
        ring: &KeyRing,
        me: Me<'_>,
    ) -> Result<(), OrderError> {
        let now = self.desk.clock.trusted_ms();
        let done = match verify_command(signed, ring, me, now) {
            Ok(command) => self.obey(command, now).await,
            Err(e @ (OrderError::Expired { .. } | OrderError::Unusable { .. })) => {
                let told = self.tell_refusal(signed, &e, now).await;
                if let Err(e) = told {
                    tracing::error!("record that a command was refused: {e}");
                }
                return Err(e);
            }
            Err(e) => return Err(e),
        };
        if let Err(e) = done {
            tracing::error!("take a command: {e}; it is tried when it comes again");
        }
        Ok(())
    }

    /// Once for each id: retained commands come again with every connection.
    async fn tell_refusal(
        &mut self,
        signed: &pb::Signed,
        refused: &OrderError,
        now: i64,
    ) -> Result<(), BufferError> {
        let Ok(command) = message::decode::<pb::Command>("command", &signed.payload) else {
            return Ok(());
        };
        let mut known = self.known().await?.clone();
        let new = known.take(&command.id, &command.name, command.expires_ms, now);
        if command.id.is_empty() || new != Verdict::CarryOut {
            return Ok(());
        }
        known.end(&command.id);
        let text = format!("{}: {refused}", refused.step());
        let record = self.outcome(&command.id, false, &text);
        self.keep(&known, vec![record]).await?;
        self.known = Some(known);
        Ok(())
    }

    async fn obey(&mut self, command: VerifiedCommand, now: i64) -> Result<(), BufferError> {
        let mut known = self.known().await?.clone();
        match known.take(&command.id, &command.name, command.expires, now) {
            Verdict::Known => return Ok(()),
            Verdict::Full => {
                tracing::warn!(
                    id = command.id,
                    "too many commands are remembered; this one waits"
                );
                return Ok(());
            }
            Verdict::Unsure => {
                let record = self.outcome(&command.id, false, UNSURE);
                self.keep(&known, vec![record]).await?;
                self.known = Some(known);
                return Ok(());
            }
            Verdict::CarryOut => {}
        }
        // Before anything is done: a process that dies from here on does not do it again.
        self.keep(&known, Vec::new()).await?;
        self.known = Some(known.clone());
        tracing::info!(
            id = command.id,
            name = command.name,
            argument = command.argument,
            "command"
        );
        let (ok, text) = match Task::new(&command.name, &command.argument) {
            // Its outcome is the next start's to tell.
            Ok(Task::Restart) => {
                self.desk.control.restart();
                return Ok(());
            }
            Ok(Task::Log(filter)) => match self.desk.control.log(&filter) {
                Ok(()) if filter.is_empty() => {
                    (true, "the log filter of the start is in force".to_owned())
                }
                Ok(()) => (true, format!("`{filter}` is in force until the next start")),
                Err(e) => (false, e),
            },
            Ok(Task::Report) => (true, words::lines(&self.desk.board.facts()).join("\n")),
            Err(e) => (false, e.to_string()),
        };
        known.end(&command.id);
        let record = self.outcome(&command.id, ok, &text);
        self.keep(&known, vec![record]).await?;
        self.known = Some(known);
        Ok(())
    }
}
