//! The user PostgreSQL runs as: owns looking it up and handing files to it, never changes this process.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::ClusterError;
use crate::error::file;

/// Whom the server's files belong to; none where this process is not root and simply keeps its own user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(Option<(u32, u32)>);

impl Owner {
    /// The user `postgres` where this process is root, else this process's own.
    pub(crate) fn find() -> Result<Self, ClusterError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self(None));
        }
        let passwd = Path::new("/etc/passwd");
        let text = file("read", passwd, std::fs::read_to_string(passwd))?;
        match Self::in_passwd(&text) {
            Some(ids) => Ok(Self(Some(ids))),
            None => Err(ClusterError::NoUser),
        }
    }

    fn in_passwd(text: &str) -> Option<(u32, u32)> {
        text.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            match fields.as_slice() {
                ["postgres", _, uid, gid, ..] => Some((uid.parse().ok()?, gid.parse().ok()?)),
                _ => None,
            }
        })
    }

    /// Hands a path to the owner.
    pub(crate) fn give(self, path: &Path) -> Result<(), ClusterError> {
        match self.0 {
            Some((uid, gid)) => file(
                "change the owner of",
                path,
                std::os::unix::fs::chown(path, Some(uid), Some(gid)),
            ),
            None => Ok(()),
        }
    }

    /// A command that runs as the owner with nothing of this process's environment, in a process group of its own:
    /// Ctrl-C at the terminal must reach the hub first.
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .process_group(0);
        if let Some((uid, gid)) = self.0 {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Whether the owner may pass through every directory above `path`, so far as they exist.
    pub(crate) fn can_reach(self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let Some((uid, gid)) = self.0 else {
            return true;
        };
        path.ancestors()
            .skip(1)
            .all(|dir| match std::fs::metadata(dir) {
                Ok(m) if m.uid() == uid => m.mode() & 0o100 != 0,
                Ok(m) if m.gid() == gid => m.mode() & 0o010 != 0,
                Ok(m) => m.mode() & 0o001 != 0,
                Err(_) => true,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_postgres_user_is_found_by_its_exact_name() {
        let text =
            "root:x:0:0::/root:/bin/sh\npostgresx:x:9:9::/:/bin/sh\npostgres:x:101:104:::/bin/sh\n";
        assert_eq!(Owner::in_passwd(text), Some((101, 104)));
        assert_eq!(Owner::in_passwd("root:x:0:0::/:/bin/sh"), None);
    }
}
