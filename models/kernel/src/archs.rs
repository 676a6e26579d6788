//! The kinds of vector that tests run on: all that this machine has. Owns that list, never a kernel.

use pulp::Arch;

pub(crate) fn archs() -> Vec<Arch> {
    let all = vec![Arch::Scalar, Arch::new()];
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let all = [
        all,
        pulp::x86::V3::try_new().map(Arch::V3).into_iter().collect(),
    ]
    .concat();
    all
}
