//! Who may ask an interface that knows nobody: owns the check of `Host` and `Origin`, never what is asked for.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::problem::Problem;

const FOREIGN_HOST: &str = "this hub is asked as localhost or by a loopback address alone, so that no page of another site reaches \
    it under a name of its own; a proxy in front of it sends `Host: 127.0.0.1`";
const FOREIGN_ORIGIN: &str =
    "pages of other sites may only read; send it without `Origin`, or from the hub's own page";

/// Refuses what a page of another site may have sent through a browser on this machine.
pub(super) async fn check(request: Request, next: Next) -> Response {
    match refusal(request.method(), request.headers()) {
        None => next.run(request).await,
        Some(why) => Problem::new(StatusCode::FORBIDDEN, why).into_response(),
    }
}

fn refusal(method: &Method, headers: &HeaderMap) -> Option<&'static str> {
    let text = |name| headers.get(name).map(|v| v.to_str().unwrap_or_default());
    let host = text(header::HOST).unwrap_or_default();
    if !is_loopback(host) {
        return Some(FOREIGN_HOST);
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let own = |origin: &str| origin.split_once("://").is_some_and(|(_, at)| at == host);
    match text(header::ORIGIN) {
        Some(origin) if !reads && !own(origin) => Some(FOREIGN_ORIGIN),
        _ => None,
    }
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|a: IpAddr| a.is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn asked(method: Method, host: &str, origin: Option<&str>) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        refusal(&method, &headers)
    }

    #[test]
    fn only_this_machine_asks_and_only_its_own_page_writes() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:8080",
        ] {
            assert_eq!(
                asked(Method::GET, host, Some("http://evil")),
                None,
                "{host}"
            );
            assert_eq!(asked(Method::POST, host, None), None, "{host}");
            let own = format!("http://{host}");
            assert_eq!(asked(Method::POST, host, Some(&own)), None, "{host}");
        }
        for host in [
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "",
            "localhost.evil",
        ] {
            assert_eq!(asked(Method::GET, host, None), Some(FOREIGN_HOST), "{host}");
        }
        for origin in [
            "http://evil.example:8080",
            "null",
            "http://127.0.0.1:9999",
            "http://127.0.0.1",
        ] {
            let refused = asked(Method::POST, "127.0.0.1:8080", Some(origin));
            assert_eq!(refused, Some(FOREIGN_ORIGIN), "{origin}");
        }
    }
}
