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

fn order() -> Order {
    Order {
        site: "home".into(),
        device: "shop-1".into(),
        forecaster: "demand".into(),
        bundle: Sha256::of(b"bundle").to_vec(),
        bundle_size: 6,
        model_version: 7,
        stage: Stage::Shadow.into(),
        generation: 4,
        attempt: 1,
        expires_ms: NOW + 1,
        issued_ms: NOW,
    }
}

fn obey(order: &Order) -> Result<fieldcast_bundle::VerifiedOrder, OrderError> {
    let signed = signed::sign(Kind::Order, message::encode(order), "hub", signer(&key(2)));
    verify_order(
        &signed,
        &ring(),
        ME,
        |forecaster| if forecaster == "demand" { 4 } else { 0 },
        NOW,
    )
}

#[test]
fn orders_are_obeyed_only_when_everything_fits() {
    let good = obey(&order()).unwrap();
    assert_eq!(
        (good.model.map(|m| m.bundle), good.stage, good.generation),
        (Some(Sha256::of(b"bundle")), Stage::Shadow, 4)
    );
    let with = |change: &dyn Fn(&mut Order)| {
        let mut order = order();
        change(&mut order);
        obey(&order).unwrap_err()
    };
    assert!(matches!(
        with(&|o| o.device = "shop-2".into()),
        OrderError::NotForMe { .. }
    ));
    assert!(matches!(
        with(&|o| o.site = "away".into()),
        OrderError::NotForMe { .. }
    ));
    assert!(matches!(
        with(&|o| o.generation = 3),
        OrderError::OldGeneration {
            found: 3,
            last: 4,
            ..
        }
    ));
    assert!(matches!(
        with(&|o| o.expires_ms = NOW),
        OrderError::Expired { .. }
    ));
    assert!(matches!(
        with(&|o| o.bundle_size = u64::MAX),
        OrderError::Unusable { .. }
    ));
    assert!(matches!(
        with(&|o| o.bundle = vec![0; 31]),
        OrderError::Unusable { .. }
    ));
    assert!(matches!(
        with(&|o| o.stage = 77),
        OrderError::Unusable { .. }
    ));
    for name in ["", "a/b", "Demand", &"x".repeat(65)] {
        let refused = with(&|o| o.forecaster = name.into());
        assert!(matches!(refused, OrderError::Name { .. }), "{name}");
        assert_eq!(refused.step(), "V3");
    }
    let mut signed = signed::sign(
        Kind::Order,
        message::encode(&order()),
        "hub",
        signer(&key(2)),
    );
    signed.payload[3] ^= 1;
    let broken = verify_order(&signed, &ring(), ME, |_| 0, NOW);
    assert!(matches!(
        broken,
        Err(OrderError::Signature(SignatureError::Wrong { .. }))
    ));
}

#[test]
fn an_order_for_no_model_is_one_only_when_every_field_says_so() {
    let none = Order {
        bundle: Vec::new(),
        bundle_size: 0,
        model_version: 0,
        stage: Stage::Active.into(),
        ..order()
    };
    assert_eq!(obey(&none).unwrap().model, None);
    let with = |change: &dyn Fn(&mut Order)| {
        let mut order = none.clone();
        change(&mut order);
        obey(&order).unwrap_err().step()
    };
    assert_eq!(with(&|o| o.stage = Stage::Shadow.into()), "V6");
    assert_eq!(with(&|o| o.model_version = 7), "V6");
    assert_eq!(with(&|o| o.bundle_size = 6), "V6");
    assert_eq!(with(&|o| o.bundle = vec![1; 32]), "V6");
    assert_eq!(with(&|o| o.generation = 3), "V4");
    assert_eq!(with(&|o| o.expires_ms = NOW), "V5");
    assert_eq!(with(&|o| o.device = "shop-2".into()), "V3");
}

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

#[test]
fn commands_are_obeyed_only_when_everything_fits() {
    let command = Command {
        site: "home".into(),
        device: "shop-1".into(),
        id: "c1".into(),
        expires_ms: NOW + 1,
        name: "new-epoch".into(),
        argument: String::new(),
    };
    let send = |kind, command: &Command, now| {
        let signed = signed::sign(kind, message::encode(command), "hub", signer(&key(2)));
        verify_command(&signed, &ring(), ME, now)
    };
    assert_eq!(
        send(Kind::Command, &command, NOW).unwrap().name,
        "new-epoch"
    );
    assert!(matches!(
        send(Kind::Order, &command, NOW),
        Err(OrderError::Signature(_))
    ));
    assert!(matches!(
        send(Kind::Command, &command, NOW + 1),
        Err(OrderError::Expired { .. })
    ));
    let other = Command {
        device: "shop-2".into(),
        ..command.clone()
    };
    assert!(matches!(
        send(Kind::Command, &other, NOW),
        Err(OrderError::NotForMe { .. })
    ));
    let nameless = Command {
        id: String::new(),
        ..command
    };
    assert!(matches!(
        send(Kind::Command, &nameless, NOW),
        Err(OrderError::Unusable { .. })
    ));
}
