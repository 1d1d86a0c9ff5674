//! Loops over numbers, compiled a second time for processors with wide registers.

/// What `work` gives, which runs as compiled for the widest registers that this processor has, as far as it is inlined.
/// The numbers are the same: nothing is reordered or contracted.
#[inline]
pub(crate) fn widest<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn with_avx2<T>(work: impl FnOnce() -> T) -> T {
            work()
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { with_avx2(work) };
        }
    }
    work()
}
