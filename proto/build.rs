//! Compiles the schema, without `protoc`: to Rust types, and to the table of fields that `wire.rs` walks by.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, error, fs};

/// `FieldDescriptorProto.Type` of doubles and of 64-bit integers of fixed width.
const FIXED64: [i32; 3] = [1, 6, 16];
/// `FieldDescriptorProto.Type` of floats and of 32-bit integers of fixed width.
const FIXED32: [i32; 3] = [2, 7, 15];
/// `FieldDescriptorProto.Type` of string, message and bytes.
const DELIMITED: [i32; 3] = [9, 11, 12];

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo:rerun-if-changed=onnx.proto");
    let out = env::var("OUT_DIR")?;
    let schema = protox::compile(["onnx.proto"], ["."])?;

    // Message type -> fields as (number, wire type, message type if it is one).
    let mut table = String::from("pub(crate) static MESSAGES: &[Fields] = &[\n");
    let mut messages = Vec::new();
    for file in &schema.file {
        let mut open: Vec<_> =
            file.message_type.iter().map(|message| (format!(".{}", file.package()), message)).collect();
        while let Some((scope, message)) = open.pop() {
            let name = format!("{scope}.{}", message.name());
            open.extend(message.nested_type.iter().map(|nested| (name.clone(), nested)));
            messages.push((name, message));
        }
    }
    messages.sort_by(|(left, _), (right, _)| left.cmp(right));
    let position = |name: &str| messages.iter().position(|(other, _)| other == name);
    for (name, message) in &messages {
        write!(table, "    &[")?;
        for field in &message.field {
            let kind = field.r#type.unwrap_or_default();
            let wire = match kind {
                _ if FIXED64.contains(&kind) => 1,
                _ if DELIMITED.contains(&kind) => 2,
                _ if FIXED32.contains(&kind) => 5,
                _ => 0,
            };
            write!(table, "({}, {wire}, {:?}), ", field.number(), position(field.type_name()))?;
        }
        writeln!(table, "], // {name}")?;
    }
    let model = position(".onnx.ModelProto").ok_or("the schema has no ModelProto")?;
    writeln!(table, "];\npub(crate) const MODEL: usize = {model};")?;
    fs::write(Path::new(&out).join("fields.rs"), table)?;

    prost_build::Config::new()
        // Weights and texts stay slices of the file, or are made when they are written.
        .bytes(["."])
        .prost_path("crate::codec")
        // An attribute holds one of these at most: kept small, as models have many attributes.
        .boxed(".onnx.AttributeProto.t")
        .boxed(".onnx.AttributeProto.g")
        .boxed(".onnx.AttributeProto.tp")
        .boxed(".onnx.AttributeProto.sparse_tensor")
        .compile_fds(schema)?;
    Ok(())
}
