//! What a broker, a thief or an accident could send: every one of these is refused, for its own reason.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use fieldcast_bundle::container::Container;
use fieldcast_bundle::{
    Caps, Expected, GoldenVector, KeyListChange, KeyRing, Kind, Manifest, Me, OrderError, Part,
    SignatureError, Training, UnverifiedBundle, VerifiedBundle, VerifyError, seal, signed,
    verify_command, verify_order,
};
use fieldcast_features::{ForecasterSpec, Preset, Selector, calendar};
use fieldcast_wire::pb::{Command, HubKey, KeyList, Order, Signed, Stage};
use fieldcast_wire::{Sha256, message};
use prost::Message;
use ring::signature::{Ed25519KeyPair, KeyPair};

const NOW: i64 = 1_000_000;

#[path = "hostile/orders.rs"]
mod orders;

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn signer(key: &Ed25519KeyPair) -> impl Fn(&[u8]) -> [u8; 64] {
    |message| key.sign(message).as_ref().try_into().unwrap()
}

fn key_list(root: u8, version: u64, keys: &[(&str, u8)]) -> Signed {
    let keys = keys.iter().map(|(id, seed)| HubKey {
        key_id: (*id).into(),
        public_key: key(*seed).public_key().as_ref().to_vec(),
    });
    let list = KeyList {
        version,
        keys: keys.collect(),
    };
    signed::sign(
        Kind::KeyList,
        message::encode(&list),
        "root",
        signer(&key(root)),
    )
}

fn ring() -> KeyRing {
    let mut ring = KeyRing::new(key(1).public_key().as_ref().try_into().unwrap());
    assert_eq!(
        ring.accept(&key_list(1, 5, &[("hub", 2)])),
        Ok(KeyListChange::Newer)
    );
    ring
}

fn manifest() -> Manifest {
    let forecaster = ForecasterSpec {
        name: "demand".into(),
        target: "demand".into(),
        inputs: vec!["demand".into()],
        period: "1h".into(),
        lookback: 3,
        horizon: 1,
        season: None,
        quantiles: vec![0.5],
        preset: Preset::Default,
        timezone: "UTC".into(),
        holidays: Vec::new(),
        selector: Selector::default(),
    };
    let golden = GoldenVector {
        window: vec![1.0, f64::NAN, 3.0],
        future: vec![0.5; calendar::width(&forecaster)],
        mean: vec![3.0],
        quantiles: vec![3.0],
    };
    Manifest {
        format: 0,
        forecaster,
        version: 7,
        onnx_sha256: String::new(),
        reference_sha256: String::new(),
        pipeline_version: 1,
        train_dev: 1.0,
        golden: vec![golden],
        calibration: Default::default(),
        training: Training::default(),
        min_agent: "0.1.0".into(),
        created: 1,
        expires: Some(NOW + 1),
    }
}

fn sealed() -> Vec<u8> {
    seal(
        manifest(),
        b"onnx".to_vec(),
        b"reference".to_vec(),
        signer(&key(2)),
        "hub",
    )
    .unwrap()
}

fn verify(bytes: &[u8]) -> Result<VerifiedBundle, VerifyError> {
    verify_at(bytes, NOW, "demand", "0.1.0")
}

fn verify_at(
    bytes: &[u8],
    now: i64,
    forecaster: &str,
    agent_version: &str,
) -> Result<VerifiedBundle, VerifyError> {
    let expected = Expected {
        sha256: Sha256::of(bytes),
        forecaster,
        agent_version,
    };
    UnverifiedBundle::parse(bytes, &Caps::default())?.verify(&ring(), &expected, now)
}

/// A bundle whose container was changed after sealing; the order is given the changed file's hash.
fn changed(change: impl Fn(&mut Container)) -> Result<VerifiedBundle, VerifyError> {
    let mut container = Container::decode(sealed().as_slice()).unwrap();
    change(&mut container);
    verify(&container.encode_to_vec())
}

/// A bundle whose manifest was signed by the right key after `change`, past the checks of `seal`.
fn signed_after(change: impl Fn(&mut serde_json::Value)) -> Result<VerifiedBundle, VerifyError> {
    changed(|c| {
        let mut json = serde_json::from_slice(&c.manifest).unwrap();
        change(&mut json);
        let s = signed::sign(
            Kind::Bundle,
            serde_json::to_vec(&json).unwrap(),
            "hub",
            signer(&key(2)),
        );
        (c.manifest, c.signature) = (s.payload, s.signature);
    })
}

#[test]
fn a_good_bundle_passes_and_keeps_its_missing_values() {
    let bytes = sealed();
    let bundle = verify(&bytes).unwrap();
    assert_eq!(bundle.sha256(), Sha256::of(&bytes));
    assert_eq!(
        (bundle.onnx(), bundle.reference()),
        (&b"onnx"[..], &b"reference"[..])
    );
    assert!(bundle.manifest().golden[0].window[1].is_nan());
    assert_eq!(bundle.manifest().version, 7);
}

#[test]
fn wrong_keys_are_refused() {
    let by_other = |seed, id| {
        let bytes = seal(manifest(), vec![1], vec![2], signer(&key(seed)), id).unwrap();
        verify(&bytes).unwrap_err()
    };
    assert!(matches!(
        by_other(3, "hub"),
        VerifyError::Signature(SignatureError::Wrong { .. })
    ));
    assert!(matches!(
        by_other(3, "other"),
        VerifyError::Signature(SignatureError::UnknownKey { .. })
    ));
    // The root signs key lists and nothing else.
    assert!(matches!(
        by_other(1, "root"),
        VerifyError::Signature(SignatureError::UnknownKey { .. })
    ));
}

#[test]
fn a_signature_for_one_kind_does_not_count_for_another() {
    let error = changed(|c| {
        let s = signed::sign(Kind::Order, c.manifest.clone(), "hub", signer(&key(2)));
        c.signature = s.signature;
    });
    assert!(matches!(
        error,
        Err(VerifyError::Signature(SignatureError::Wrong { .. }))
    ));
}

#[test]
fn changed_parts_are_refused() {
    for part in [0, 1] {
        let error = changed(|c| c.parts[part].bytes[0] ^= 1).unwrap_err();
        assert!(
            matches!(
                error,
                VerifyError::Part {
                    problem: "is not the one that was signed",
                    ..
                }
            ),
            "{error}"
        );
    }
    let error = changed(|c| c.manifest[40] ^= 1);
    assert!(matches!(
        error,
        Err(VerifyError::Signature(SignatureError::Wrong { .. }))
    ));
}

#[test]
fn parts_are_there_once_and_no_others() {
    let problem = |change: &dyn Fn(&mut Vec<Part>)| match changed(|c| change(&mut c.parts)) {
        Err(VerifyError::Part { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        problem(&|parts| parts.push(parts[0].clone())),
        "is there twice"
    );
    assert_eq!(
        problem(&|parts| parts[1].name = parts[0].name.clone()),
        "is there twice"
    );
    assert_eq!(problem(&|parts| drop(parts.pop())), "is missing");
    let extra = Part {
        name: "../../etc/passwd".into(),
        bytes: vec![],
    };
    assert_eq!(
        problem(&|parts| parts.push(extra.clone())),
        "is not one that a bundle has"
    );
}

#[test]
fn oversize_is_refused_before_it_is_read() {
    let bytes = sealed();
    for caps in [
        Caps {
            bundle: bytes.len() - 1,
            ..Caps::default()
        },
        Caps {
            manifest: 10,
            ..Caps::default()
        },
        Caps {
            part: 3,
            ..Caps::default()
        },
    ] {
        assert!(matches!(
            UnverifiedBundle::parse(&bytes, &caps),
            Err(VerifyError::TooLarge { .. })
        ));
    }
    // A length prefix that promises 4 GiB in a few bytes.
    let bomb = [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
    assert!(matches!(
        UnverifiedBundle::parse(&bomb, &Caps::default()),
        Err(VerifyError::Malformed { .. })
    ));
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sealed();
    for len in 0..bytes.len() {
        assert!(
            verify(&bytes[..len]).is_err(),
            "{len} of {} bytes",
            bytes.len()
        );
    }
}

#[test]
fn another_file_forecaster_agent_or_time_is_refused() {
    let bytes = sealed();
    let expected = Expected {
        sha256: Sha256::of(b"x"),
        forecaster: "demand",
        agent_version: "0.1.0",
    };
    let other = UnverifiedBundle::parse(&bytes, &Caps::default())
        .unwrap()
        .verify(&ring(), &expected, NOW);
    assert!(matches!(other, Err(VerifyError::OtherBundle { .. })));
    assert!(matches!(
        verify_at(&bytes, NOW, "supply", "0.1.0"),
        Err(VerifyError::OtherForecaster { .. })
    ));
    assert!(matches!(
        verify_at(&bytes, NOW, "demand", "0.0.9"),
        Err(VerifyError::OldAgent { .. })
    ));
    assert!(verify_at(&bytes, NOW, "demand", "0.10.0-rc.1").is_ok());
    assert!(matches!(
        verify_at(&bytes, NOW + 1, "demand", "0.1.0"),
        Err(VerifyError::Expired { .. })
    ));
}

#[test]
fn unusable_manifests_are_refused_though_signed() {
    let golden = signed_after(|m| m["golden"] = serde_json::json!([]));
    assert!(matches!(golden, Err(VerifyError::Manifest { .. })));
    let short = signed_after(|m| m["golden"][0]["mean"] = serde_json::json!([]));
    assert!(matches!(short, Err(VerifyError::Manifest { .. })));
    let format = signed_after(|m| m["format"] = serde_json::json!(99));
    assert!(matches!(format, Err(VerifyError::Format { found: 99, .. })));
    let mut none = manifest();
    none.golden.clear();
    assert!(seal(none, vec![], vec![], signer(&key(2)), "hub").is_err());
    let mut nan = manifest();
    nan.calibration.daily.mean = f64::NAN;
    assert!(seal(nan, vec![], vec![], signer(&key(2)), "hub").is_err());
}

#[test]
fn key_lists_only_go_forward_and_only_by_the_root() {
    let mut ring = ring();
    assert_eq!(
        ring.accept(&key_list(1, 5, &[("hub", 2)])),
        Ok(KeyListChange::Same)
    );
    let old = SignatureError::OldKeyList {
        found: 4,
        in_force: 5,
    };
    assert_eq!(ring.accept(&key_list(1, 4, &[("thief", 9)])), Err(old));
    let twin = SignatureError::OldKeyList {
        found: 5,
        in_force: 5,
    };
    assert_eq!(ring.accept(&key_list(1, 5, &[("thief", 9)])), Err(twin));
    assert!(matches!(
        ring.accept(&key_list(2, 6, &[("hub", 2)])),
        Err(SignatureError::Wrong { .. })
    ));
    let doubled = ring.accept(&key_list(1, 6, &[("hub", 2), ("hub", 9)]));
    assert!(matches!(doubled, Err(SignatureError::Malformed { .. })));
    assert_eq!((ring.version(), ring.hub_key("thief")), (5, None));
    assert_eq!(
        ring.accept(&key_list(1, 6, &[("new", 3)])),
        Ok(KeyListChange::Newer)
    );
    assert!(ring.hub_key("hub").is_none() && ring.hub_key("new").is_some());
}

const ME: Me<'_> = Me {
    site: "home",
    device: "shop-1",
};

#[test]
fn a_container_of_countless_parts_is_refused_before_they_are_made() {
    // Two bytes for each empty part: decoded, they would take over twenty times the file.
    let bomb = [0x22, 0x00].repeat(1 << 20);
    let refused = UnverifiedBundle::parse(&bomb, &Caps::default()).unwrap_err();
    assert!(
        matches!(&refused, VerifyError::Malformed { problem } if problem.contains("parts")),
        "{refused}"
    );
}

/// One hostile bundle for each attack, with the check that stops it; the device's own checks are in the agent's tests.
#[test]
fn each_hostile_bundle_is_stopped_by_its_check() {
    let step = |done: Result<VerifiedBundle, VerifyError>| done.unwrap_err().step();
    let good = sealed();
    let thief = seal(
        manifest(),
        b"onnx".to_vec(),
        b"{}".to_vec(),
        signer(&key(9)),
        "hub",
    )
    .unwrap();
    let unlisted = seal(
        manifest(),
        b"onnx".to_vec(),
        b"{}".to_vec(),
        signer(&key(9)),
        "thief",
    )
    .unwrap();
    // Of a field that is there twice the last one counts: what counts must be what was signed.
    let twice = {
        let mut other = manifest();
        other.version += 1;
        let json = serde_json::to_vec(&other).unwrap();
        let more = Container {
            manifest: json,
            ..Container::default()
        };
        [good.clone(), more.encode_to_vec()].concat()
    };
    let swapped = changed(|c| c.parts.swap(0, 1));
    assert!(
        swapped.is_ok(),
        "parts go by their names, not by their order"
    );
    let exchanged = changed(|c| {
        let (onnx, reference) = (c.parts[0].bytes.clone(), c.parts[1].bytes.clone());
        (c.parts[0].bytes, c.parts[1].bytes) = (reference, onnx);
    });
    let outside = Part {
        name: "../model.onnx".into(),
        bytes: b"onnx".to_vec(),
    };
    let small = Caps {
        part: 3,
        ..Caps::default()
    };
    let over = UnverifiedBundle::parse(&good, &small).unwrap_err();
    let golden = |value: serde_json::Value| signed_after(move |m| m["golden"] = value.clone());
    for (attack, found, expected) in [
        ("a key that is on no list", step(verify(&unlisted)), "V2"),
        (
            "another key under a listed name",
            step(verify(&thief)),
            "V2",
        ),
        (
            "a changed manifest",
            step(changed(|c| c.manifest[40] ^= 1)),
            "V2",
        ),
        (
            "a second manifest behind the signed one",
            step(verify(&twice)),
            "V2",
        ),
        (
            "for another forecaster",
            step(verify_at(&good, NOW, "supply", "0.1.0")),
            "V3",
        ),
        (
            "expired",
            step(verify_at(&good, NOW + 1, "demand", "0.1.0")),
            "V5",
        ),
        ("over the cap", over.step(), "V6"),
        (
            "changed ONNX",
            step(changed(|c| c.parts[0].bytes[0] ^= 1)),
            "V7",
        ),
        (
            "changed reference",
            step(changed(|c| c.parts[1].bytes[0] ^= 1)),
            "V7",
        ),
        ("parts that changed places", step(exchanged), "V7"),
        (
            "a part outside the bundle",
            step(changed(|c| c.parts.push(outside.clone()))),
            "V7",
        ),
        (
            "a part twice",
            step(changed(|c| c.parts.push(c.parts[0].clone()))),
            "V7",
        ),
        (
            "without golden vectors",
            step(golden(serde_json::json!([]))),
            "V7",
        ),
        ("truncated", step(verify(&good[..good.len() - 1])), "V7"),
        (
            "for a newer agent",
            step(verify_at(&good, NOW, "demand", "0.0.9")),
            "V8",
        ),
    ] {
        assert_eq!(found, expected, "{attack}");
    }
}
