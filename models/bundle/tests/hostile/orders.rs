//! Orders and commands that must not be obeyed; owns those, never a bundle.

use super::*;

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
