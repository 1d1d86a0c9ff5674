//! Data of users: named tensors from files.
