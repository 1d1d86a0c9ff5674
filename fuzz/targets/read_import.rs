//! Whatever the bytes, they are refused with a message or survive the way through the program.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    onnx_opt_passes::exercise::exercise(bytes);
});
