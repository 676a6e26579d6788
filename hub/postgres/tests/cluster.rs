//! A real cluster: made, joined by a second user, found again after its user died, revived after a crash.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt as _;

use fieldcast_postgres::{Cluster, Tuning};

const QUICK: Tuning = Tuning {
    fsync: false,
    connections: 10,
};

fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    // The server runs as another user where the test runs as root.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn the_last_user_stops_the_server_and_a_killed_one_is_revived() {
    let dir = root();
    let first = Cluster::open(&dir.path().join("pg"), QUICK).unwrap();
    let pid = first.pid().expect("running");
    let mut second = Cluster::open(&dir.path().join("pg"), QUICK).unwrap();
    assert_eq!(second.pid(), Some(pid), "joined, not started again");
    assert_eq!(first.password(), second.password());
    assert!(!first.close().unwrap(), "the second user still needs it");
    assert_eq!(second.pid(), Some(pid));

    let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
    let since = std::time::Instant::now();
    while !second.revive().unwrap() {
        assert!(since.elapsed().as_secs() < 30, "kill -9 had no effect");
        std::thread::yield_now();
    }
    assert_ne!(second.pid().expect("revived"), pid);
    assert!(second.close().unwrap());
}

#[test]
fn a_server_that_is_just_dying_is_revived_too() {
    let dir = root();
    let mut cluster = Cluster::open(&dir.path().join("pg"), QUICK).unwrap();
    for round in 0..10 {
        let pid = cluster.pid().expect("running");
        let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
        // Its memory is gone before its pid is: what asks in between must not start a second server too early.
        let since = std::time::Instant::now();
        while cluster.pid().is_some() {
            assert!(since.elapsed().as_secs() < 30, "kill -9 had no effect");
            std::hint::spin_loop();
        }
        assert!(cluster.revive().unwrap(), "round {round}");
        assert_ne!(cluster.pid().expect("revived"), pid);
    }
}

#[test]
fn a_second_start_keeps_cluster_and_password() {
    let dir = root();
    let pg = dir.path().join("pg");
    let first = Cluster::open(&pg, QUICK).unwrap();
    let password = first.password().to_owned();
    assert!(first.close().unwrap());
    let again = Cluster::open(&pg, QUICK).unwrap();
    assert_eq!(again.password(), password);
    assert!(again.pid().is_some());
    drop(again);
    assert!(
        !pg.join("data/postmaster.pid").exists(),
        "dropping stops the server too"
    );
}
