//! The Gregorian calendar, as far as times are read and shown.

/// The days of the months of a year.
pub(crate) fn months_of(year: u64) -> [u64; 12] {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let february = if is_leap { 29 } else { 28 };
    [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

/// The days of a year.
pub(crate) fn days_of(year: u64) -> u64 {
    months_of(year).iter().sum()
}
