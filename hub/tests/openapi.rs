//! The interface's document as it is published: owns that no change to it goes unseen.
//!
//! Renewed with `FIELDCAST_RENEW_OPENAPI=1 cargo nextest run --workspace -E 'test(the_openapi_document)'`; what
//! changed is then in the diff of `openapi.json`.
#![allow(clippy::unwrap_used, reason = "tests")]

#[test]
fn the_openapi_document_is_the_stored_one() {
    let document = serde_json::to_value(fieldcast_hub::rest::openapi()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openapi.json");
    if std::env::var_os("FIELDCAST_RENEW_OPENAPI").is_some() {
        let text = serde_json::to_string_pretty(&document).unwrap();
        std::fs::write(path, text + "\n").unwrap();
    }
    let stored: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let shown = |v: &serde_json::Value| serde_json::to_string_pretty(v).unwrap();
    let (now, then) = (shown(&document), shown(&stored));
    let differs = now.lines().zip(then.lines()).find(|(a, b)| a != b);
    assert_eq!(
        differs, None,
        "the interface has changed; renew openapi.json as the head of this file says"
    );
    assert_eq!(document, stored);
}
