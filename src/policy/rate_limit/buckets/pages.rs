//! Memory in large pages: the one file of the gateway with code that the compiler cannot check.
//!
//! A table is read at random. In pages of 4 KiB nearly every look at one of 64 MiB misses the processor's memory of where pages are, and
//! on a virtual machine to find out costs more than the look itself. In pages of 2 MiB it does not: a decision takes half the time
//! (`docs/limits.md`). Most systems give large pages to who asks for them (`madvise` in
//! `/sys/kernel/mm/transparent_hugepage/enabled`); nothing in the standard library, and no safe call elsewhere, asks.

use std::mem::MaybeUninit;

/// Asks for large pages for a table that is about to be filled. Where there are none, nothing changes. The memory stays so when the table
/// has gone: what is put there later takes whole pages of 2 MiB, in the place of the table's.
#[expect(unsafe_code, reason = "advice on memory has no safe form; see SAFETY")]
pub(super) fn prefer_large<T>(table: &mut [MaybeUninit<T>]) {
    let page = rustix::param::page_size();
    let bytes = size_of_val(table);
    let start = table.as_mut_ptr().cast::<u8>();
    // Advice is for whole pages: those that are the table's alone.
    let before = start.align_offset(page);
    let Some(length) = bytes.checked_sub(before).map(|rest| rest - rest % page).filter(|length| *length > 0)
    else {
        return;
    };
    // SAFETY: the range lies within `table`, which this function holds alone, and begins and ends at pages' bounds. MADV_HUGEPAGE
    // changes no byte and no right of access: the kernel may only back the range by other pages with the same content (madvise(2)).
    let advised = unsafe {
        rustix::mm::madvise(start.wrapping_add(before).cast(), length, rustix::mm::Advice::LinuxHugepage)
    };
    if let Err(error) = advised {
        log::debug!("no large pages for a table of {bytes} bytes: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_changes_nothing_that_is_there() {
        for length in [0, 1, 4095, 4096, 4097, 3 << 20] {
            let mut table: Vec<u8> = Vec::with_capacity(length + 7);
            table.extend([1, 2, 3]);
            prefer_large(table.spare_capacity_mut());
            table.extend((0..length).map(|at| u8::try_from(at % 251).unwrap()));
            assert_eq!(&table[..3], [1, 2, 3]);
            assert!(
                table[3..].iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251),
                "{length}"
            );
        }
    }
}
