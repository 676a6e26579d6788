//! Numbers that only rise: owns how far a device's word is believed, never where a number is stored.

/// A device that says it knows a number this far above the database's is not believed: it would use up all of them.
const FAR: u64 = 1 << 32;

/// The number that comes after the database's highest and the one that a device says it knows; none where that is too far above
/// `highest`, or where none is left.
#[must_use]
pub fn next_above(highest: u64, known: u64) -> Option<u64> {
    let next = highest.max(known).checked_add(1)?;
    let near = known <= highest.saturating_add(FAR);
    (near && i64::try_from(next).is_ok()).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_claims_to_know_far_more_than_the_database_is_not_believed() {
        assert_eq!(next_above(7, 3), Some(8));
        assert_eq!(next_above(7, 7 + FAR), Some(8 + FAR));
        assert_eq!(next_above(7, 8 + FAR), None);
        assert_eq!(next_above(7, u64::MAX), None);
        let most = i64::MAX.unsigned_abs();
        assert_eq!(next_above(most - 1, 0), Some(most));
        assert_eq!(next_above(most, 0), None, "none is left");
        assert_eq!(next_above(u64::MAX, 0), None);
    }
}
