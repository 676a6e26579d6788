//! Checks the fused kernels against tract in a short process of its own, so that tract's pages do not stay in the agent's memory:
//! owns both ends of that process, never a bundle's trust.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use fieldcast_bundle::{GoldenVector, VerifiedBundle};
use fieldcast_features::ForecasterSpec;
use fieldcast_wire::Sha256;
use serde::{Deserialize, Serialize};

/// The hidden subcommand that is the other process.
pub const COMMAND: &str = "compare-engines";
/// The other process ends itself after this time, whatever it does.
const LIMIT: Duration = Duration::from_secs(120);

/// The first line that the other process reads; the graph follows.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    forecaster: ForecasterSpec,
    train_dev: f64,
    golden: Vec<GoldenVector>,
}

/// What says that both agree, for this very graph: a program that is not ours does not know it by chance.
fn answer(onnx: &[u8]) -> String {
    format!("the engines agree on {}", Sha256::of(onnx))
}

/// The running program.
const OWN: &str = "/proc/self/exe";

/// What an answer is good for: this build of the program on vectors like this machine's. None where it cannot be told.
#[must_use]
pub fn identity(program: Option<&Path>) -> Option<String> {
    let file = std::fs::metadata(program.unwrap_or(Path::new(OWN))).ok()?;
    let built = file.modified().ok()?;
    let built = built.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(format!(
        "{} {} {} {}",
        crate::VERSION,
        file.len(),
        built.as_millis(),
        fieldcast_runtime::lanes()
    ))
}

/// Asks another process of `program` (this one where none is named) whether the fused kernels compute what tract does.
///
/// # Errors
/// They do not, or nobody could find out.
pub fn ask(program: Option<&Path>, bundle: &VerifiedBundle) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("the process that checks the fused kernels: {e}");
    // The running program's own file, even where an upgrade has put another in its place.
    let mut child = Command::new(program.unwrap_or(Path::new(OWN)))
        .arg(COMMAND)
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let manifest = bundle.manifest();
    let question = Question {
        forecaster: manifest.forecaster.clone(),
        train_dev: manifest.train_dev,
        golden: manifest.golden.clone(),
    };
    let asked = child.stdin.take().map_or(Ok(()), |mut to| {
        serde_json::to_writer(&mut to, &question)?;
        to.write_all(b"\n")?;
        to.write_all(bundle.onnx())
    });
    let output = child.wait_with_output().map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && said.trim() == answer(bundle.onnx()) {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(match (complaint.trim().lines().last(), asked) {
        (Some(line), _) => line.chars().take(400).collect(),
        (None, Err(e)) => failed(e),
        (None, Ok(())) => format!(
            "the process that checks the fused kernels ended with {} and no word",
            output.status
        ),
    })
}

/// The other process, from its input to its output.
///
/// # Errors
/// As [`serve`].
pub fn be_asked() -> anyhow::Result<()> {
    std::thread::spawn(|| {
        std::thread::sleep(LIMIT);
        std::process::abort();
    });
    serve(std::io::stdin(), &mut std::io::stdout())
}

/// Reads a question, runs both engines and writes the answer.
///
/// # Errors
/// What differs, or why it could not be found out.
pub fn serve(from: impl Read, to: &mut impl Write) -> anyhow::Result<()> {
    let mut from = BufReader::new(from);
    let mut line = String::new();
    from.read_line(&mut line)?;
    let question: Question = serde_json::from_str(&line)?;
    let mut onnx = Vec::new();
    from.read_to_end(&mut onnx)?;
    fieldcast_runtime::compare(
        &onnx,
        &question.forecaster,
        Some(question.train_dev),
        &question.golden,
    )?;
    writeln!(to, "{}", answer(&onnx))?;
    Ok(())
}
