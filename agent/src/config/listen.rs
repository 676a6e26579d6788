//! Where the agent may listen: on this device alone, since its ports know neither TLS nor identities.

use std::net::SocketAddr;

/// Checks an address and port.
///
/// # Errors
/// What is allowed.
pub(super) fn check(listen: &str) -> Result<(), String> {
    let local = match listen.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => listen
            .strip_prefix("localhost:")
            .is_some_and(|port| port.parse::<u16>().is_ok()),
    };
    if local {
        return Ok(());
    }
    Err(format!(
        "`{listen}` is not an address and port of this device alone, such as `127.0.0.1:8787`; \
         this port has no TLS: put a proxy that has it before it"
    ))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn only_this_device_may_call() {
        for listen in ["127.0.0.1:0", "127.8.8.8:1", "[::1]:8787", "localhost:8787"] {
            assert_eq!(check(listen), Ok(()), "{listen}");
        }
        for listen in [
            "0.0.0.0:8787",
            "[::]:8787",
            "192.168.1.4:8787",
            "example.org:80",
            "localhost.example.org:80",
            "127.0.0.1",
            "8787",
            "",
        ] {
            assert!(check(listen).is_err(), "{listen}");
        }
    }
}
