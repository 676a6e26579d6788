//! `src/pb.rs` is what the contract says: regenerated here and compared.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

#[test]
fn generated_code_is_that_of_the_contract() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let fds = protox::compile([root.join("proto/fieldcast.proto")], [root.join("proto")]).unwrap();
    prost_build::Config::new()
        .out_dir(out.path())
        .compile_fds(fds)
        .unwrap();
    let fresh = std::fs::read_to_string(out.path().join("fieldcast.v1.rs")).unwrap();
    let kept = root.join("src/pb.rs");
    if std::env::var_os("FIELDCAST_BLESS").is_some() {
        std::fs::write(&kept, &fresh).unwrap();
    }
    let kept = std::fs::read_to_string(kept).unwrap();
    assert!(
        kept == fresh,
        "src/pb.rs differs from the .proto: run FIELDCAST_BLESS=1 cargo test -p fieldcast-wire --test generated"
    );
}
