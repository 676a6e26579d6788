//! How a hub process starts: what it waits for and says meanwhile, and what ends it with what advice.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use fieldcast_store::Store;
use support::mosquitto::{Mosquitto, available};
use support::process::{Process, refused, run};
use support::{bed, free_port, http};

#[tokio::test]
async fn a_database_that_comes_goes_and_comes_is_waited_for() {
    let bed = bed().await;
    Store::create_database(&bed.target, "late").await.unwrap();
    let (port, dir) = (free_port(), bed.dir.path().join("hub"));
    let (hub, rest) = Process::serve(&dir, &bed.url_by(port, "late"), &[]).await;
    // It lives, is not ready, says why, and answers everything else in the same shape.
    assert_eq!(http::get(&rest, "/healthz").await.status, 200);
    let detail = http::get(&rest, "/readyz").await.problem(503);
    assert!(detail.contains("database"), "{detail}");
    http::get(&rest, "/v1/devices").await.problem(503);
    let metrics = http::get(&rest, "/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.text.contains("\nfieldcast_ready 0\n"));
    hub.says("waiting for the database").await;
    assert!(hub.said().contains("refused"), "{}", hub.said());

    let server = bed.forward(port).await;
    hub.ready(&rest, 200).await;
    assert_eq!(http::get(&rest, "/v1/devices").await.status, 200);
    assert!(
        http::get(&rest, "/metrics")
            .await
            .text
            .contains("\nfieldcast_ready 1\n")
    );

    server.abort();
    let _ = server.await;
    let detail = hub.ready(&rest, 503).await.problem(503);
    assert!(detail.contains("database"), "{detail}");
    let metrics = http::get(&rest, "/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.text.contains("\nfieldcast_ready 0\n"));
    assert!(metrics.text.contains("http_requests_total"));

    let _server = bed.forward(port).await;
    hub.ready(&rest, 200).await;
    hub.stop().await;
}

#[tokio::test]
async fn programs_that_begin_together_make_the_database_once() {
    let bed = bed().await;
    let make = || Store::create_database(&bed.target, "together");
    let all = tokio::join!(make(), make(), make(), make(), make(), make());
    for made in [all.0, all.1, all.2, all.3, all.4, all.5] {
        made.unwrap();
    }
}

#[tokio::test]
async fn only_what_a_hub_begins_with_makes_one() {
    let dir = tempfile::tempdir().unwrap();
    // The private server of a test that root runs is another user's.
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let wrong = dir.path().join("wrong");
    for args in [
        ["device", "list"],
        ["forecaster", "list"],
        ["model", "list"],
        ["rollout", "status"],
        ["key", "list"],
        ["train", "demand"],
    ] {
        let said = refused(&wrong, "", &args);
        for part in [&*wrong.to_string_lossy(), "--data-dir", "FIELDCAST_HUB_DIR"] {
            assert!(said.contains(part), "{args:?}: {said}");
        }
    }
    assert!(!wrong.exists());
    let (right, identity) = (dir.path().join("right"), dir.path().join("identity.toml"));
    let out = ["--out", identity.to_str().unwrap()];
    let added = run(
        &right,
        "",
        &[&["device", "add", "shop-1"], &out[..]].concat(),
    );
    assert!(added.status.success(), "{added:?}");
    let listed = run(&right, "", &["device", "list"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("shop-1"));
    let said = refused(&right, "", &["run", "logs", "99"]);
    assert!(
        said.contains("no training run 99; see `fieldcast-hub run list`"),
        "{said}"
    );
}

#[tokio::test]
async fn a_hub_that_waits_ends_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("postgres://hub:x@127.0.0.1:{}/none", free_port());
    let (hub, rest) = Process::serve(dir.path(), &url, &[]).await;
    hub.ready(&rest, 503).await;
    hub.stop().await;
    assert!(!dir.path().join("serve.json").exists());
    let worker = Process::worker(dir.path(), &url);
    worker.says("waiting for the database").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_broker_that_comes_later_is_waited_for() {
    if !available(&["mosquitto"]) {
        return;
    }
    let bed = bed().await;
    let (port, dir) = (free_port(), bed.dir.path().join("hub"));
    let broker = format!("mqtt://127.0.0.1:{port}");
    let (hub, rest) = Process::serve(&dir, &bed.url("t"), &["--broker", &broker]).await;
    let until = support::deadline();
    loop {
        assert_eq!(http::get(&rest, "/healthz").await.status, 200);
        let detail = http::get(&rest, "/readyz").await.problem(503);
        if detail.contains("broker") {
            break;
        }
        assert!(std::time::Instant::now() < until, "{detail}");
        tokio::task::yield_now().await;
    }
    // What needs no broker works.
    assert_eq!(http::get(&rest, "/v1/devices").await.status, 200);
    let _mosquitto = Mosquitto::start(bed.dir.path(), port);
    hub.ready(&rest, 200).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_port_in_use_ends_it_and_names_the_option() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("postgres://hub:x@127.0.0.1:{}/none", free_port());
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    for (rest, broker, says) in [
        (taken.as_str(), "127.0.0.1:0", "--listen names another"),
        (
            "127.0.0.1:0",
            taken.as_str(),
            "--broker-listen names another",
        ),
    ] {
        let args = ["serve", "--listen", rest, "--broker-listen", broker];
        let said = refused(dir.path(), &url, &args);
        assert!(said.contains(&taken) && said.contains(says), "{said}");
    }
}

#[tokio::test]
async fn what_no_waiting_mends_ends_it_with_what_to_do() {
    let bed = bed().await;
    let dir = bed.dir.path().join("hub");
    for (url, says) in [
        (bed.url_with("wrong", "t"), "correct user and password"),
        (bed.url("missing"), "createdb"),
        ("nonsense".to_owned(), "postgres://user:password@host"),
    ] {
        for command in [
            &[
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--broker-listen",
                "127.0.0.1:0",
            ][..],
            &["worker"],
            &["migrate"],
        ] {
            let said = refused(&dir, &url, command);
            assert!(said.contains(says), "{command:?}: {said}");
        }
    }
    // A command does not wait, and says that nobody answers.
    let url = format!("postgres://hub:x@127.0.0.1:{}/none", free_port());
    let said = refused(&dir, &url, &["device", "list"]);
    assert!(said.contains("check that PostgreSQL runs"), "{said}");
}

#[tokio::test]
async fn one_database_goes_by_one_set_of_keys() {
    let bed = bed().await;
    let (url, identity) = (bed.url("t"), bed.dir.path().join("a.toml"));
    let [first, second] = ["first", "second"].map(|name| bed.dir.path().join(name));
    let add = ["device", "add", "a", "--out", identity.to_str().unwrap()];
    assert!(run(&first, &url, &add).status.success());
    let before = std::fs::read(&identity).unwrap();
    for command in [
        &add[..],
        &["worker"],
        &[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--broker-listen",
            "127.0.0.1:0",
        ],
    ] {
        let said = refused(&second, &url, command);
        assert!(
            said.contains("other keys") && said.contains("--new-keys"),
            "{said}"
        );
    }
    assert_eq!(std::fs::read(&identity).unwrap(), before);
    assert!(
        run(&second, &url, &["migrate", "--new-keys"])
            .status
            .success()
    );
    assert!(run(&second, &url, &add).status.success());
    assert!(refused(&first, &url, &add).contains("other keys"));
}

#[tokio::test]
async fn only_a_restored_database_gets_a_new_name() {
    let bed = bed().await;
    let (url, dir) = (bed.url("t"), bed.dir.path().join("hub"));
    let before = bed.store.instance().await.unwrap();
    assert!(run(&dir, &url, &["migrate"]).status.success());
    assert_eq!(bed.store.instance().await.unwrap(), before);
    assert!(run(&dir, &url, &["migrate", "--restored"]).status.success());
    assert_ne!(bed.store.instance().await.unwrap(), before);
}
