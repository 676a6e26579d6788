//! Who the device is to its hub: owns reading `identity.toml`; never stores keys of others.

use std::path::{Path, PathBuf};

use fieldcast_wire::{DeviceId, SiteId};
use serde::Deserialize;

/// A device's identity, as `fieldcast-hub device add` writes it.
#[derive(Clone)]
pub struct Identity {
    /// Site of the hub.
    pub site: SiteId,
    /// Name of the device: MQTT user name, client id and topic level.
    pub device: DeviceId,
    /// Where the broker listens.
    pub broker: Broker,
    /// MQTT password.
    pub token: String,
    /// Ed25519 key that signs the list of hub keys.
    pub root_public_key: [u8; 32],
    /// Certificates that vouch for the broker; with `mqtts://` only.
    pub ca_file: Option<PathBuf>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token stays out of logs.
        write!(f, "{}/{} at {:?}", self.site, self.device, self.broker)
    }
}

/// Address of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether TLS is spoken.
    pub tls: bool,
}

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Missing or not readable.
    #[error("identity {} cannot be read ({source}); make one with `fieldcast-hub device add NAME --out FILE` and copy it here", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("identity {}: {problem}; correct it or have the hub write it again with `fieldcast-hub device add`", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// What is wrong and what is allowed.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    site: SiteId,
    device: DeviceId,
    broker: String,
    token: String,
    root_public_key: String,
    ca_file: Option<PathBuf>,
}

impl Identity {
    /// Reads an identity; a second value is a warning about who else can read the file.
    ///
    /// # Errors
    /// Not readable, unknown or missing keys, or values that cannot be.
    pub fn read(file: &Path) -> Result<(Self, Option<String>), IdentityError> {
        let text = std::fs::read_to_string(file).map_err(|source| IdentityError::Read {
            file: file.to_owned(),
            source,
        })?;
        Ok((Self::parse(file, &text)?, open_mode(file)))
    }

    /// Parses an identity; `file` is named in errors and is where a relative `ca_file` counts from.
    ///
    /// # Errors
    /// Unknown or missing keys, or values that cannot be.
    pub fn parse(file: &Path, text: &str) -> Result<Self, IdentityError> {
        let wrong = |problem: String| IdentityError::Content {
            file: file.to_owned(),
            problem,
        };
        // The source text may hold the token, so only the message is shown, never the excerpt.
        let raw: Raw = toml::from_str(text).map_err(|e| wrong(e.message().trim().to_owned()))?;
        let broker = Broker::parse(&raw.broker).map_err(wrong)?;
        if raw.token.is_empty() {
            return Err(wrong("`token` is empty".into()));
        }
        let key = fieldcast_wire::Sha256::from_hex(raw.root_public_key.trim())
            .ok_or_else(|| wrong("`root_public_key` is not 64 hexadecimal digits".into()))?;
        let ca_file = raw
            .ca_file
            .map(|ca| file.parent().unwrap_or(Path::new("")).join(ca));
        if broker.tls && ca_file.is_none() {
            return Err(wrong(
                "`ca_file` is missing, and `mqtts://` needs it".into(),
            ));
        }
        Ok(Self {
            site: raw.site,
            device: raw.device,
            broker,
            token: raw.token,
            root_public_key: key.0,
            ca_file,
        })
    }
}

impl Broker {
    fn parse(url: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`broker` is `{url}`, allowed are `mqtt://HOST[:PORT]` and `mqtts://HOST[:PORT]`"
            )
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err(wrong()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let port_at = rest.rfind(':').filter(|at| !rest[*at..].contains(']'));
        let (host, port) = match port_at {
            Some(at) => (&rest[..at], rest[at + 1..].parse().map_err(|_| wrong())?),
            None => (rest, if tls { 8883 } else { 1883 }),
        };
        if host.is_empty()
            || host.contains(['/', '@', '?', '#'])
            || host.contains(char::is_whitespace)
        {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
        })
    }
}

fn open_mode(file: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(file).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| {
        format!(
            "identity {} holds a secret but has mode {mode:03o}: others can read it; run `chmod 600` on it",
            file.display()
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn text(broker: &str, more: &str) -> String {
        format!(
            "site = \"plant\"\ndevice = \"pi-7\"\nbroker = \"{broker}\"\ntoken = \"secret\"\nroot_public_key = \"{}\"\n{more}",
            "ab".repeat(32)
        )
    }

    #[test]
    fn reads_and_warns_of_open_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("identity.toml");
        std::fs::write(
            &file,
            text("mqtts://hub.example:9000", "ca_file = \"ca.pem\""),
        )
        .unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        let (identity, warning) = Identity::read(&file).unwrap();
        assert_eq!(identity.broker.port, 9000);
        assert_eq!(identity.ca_file, Some(dir.path().join("ca.pem")));
        assert_eq!(identity.root_public_key, [0xab; 32]);
        assert!(warning.unwrap().contains("chmod 600"));
        assert!(!format!("{identity:?}").contains("secret"));
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(Identity::read(&file).unwrap().1.is_none());
    }

    #[test]
    fn names_what_is_wrong_and_never_the_token() {
        let file = Path::new("id.toml");
        for (text, says) in [
            (text("http://x", ""), "allowed are `mqtt://"),
            (text("mqtt://x:99999", ""), "allowed are `mqtt://"),
            (text("mqtts://x", ""), "`ca_file` is missing"),
            (text("mqtt://x", "colour = 1"), "unknown field `colour`"),
            ("site = \"a\"".into(), "missing field `device`"),
        ] {
            let error = Identity::parse(file, &text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(
                error.contains("id.toml") && !error.contains("secret"),
                "{error}"
            );
        }
        let v6 = Identity::parse(file, &text("mqtt://[::1]:1884", "")).unwrap();
        assert_eq!((v6.broker.host.as_str(), v6.broker.port), ("[::1]", 1884));
        assert_eq!(
            Identity::parse(file, &text("mqtt://h", ""))
                .unwrap()
                .broker
                .port,
            1883
        );
    }
}
