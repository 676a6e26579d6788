//! What fuzzing found worth keeping is replayed: the properties hold for every kept input.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

#[path = "../../fuzz/src/lib.rs"]
mod properties;

use std::path::Path;

fn replay(target: &str, property: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let inputs = std::fs::read_dir(corpus.join(target)).unwrap();
    let mut replayed = 0;
    for input in inputs {
        property(&std::fs::read(input.unwrap().path()).unwrap());
        replayed += 1;
    }
    assert!(replayed > 0, "the corpus of `{target}` is empty");
}

#[test]
fn batches() {
    replay("batch", properties::batch);
}

#[test]
fn messages() {
    replay("messages", properties::messages);
}

#[test]
fn json() {
    replay("json", properties::json);
}

#[test]
fn topics() {
    replay("topics", properties::topics);
}
