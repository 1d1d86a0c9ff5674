//! Compiles the schema to Rust types, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=onnx.proto");
    let schema = protox::compile(["onnx.proto"], ["."])?;
    prost_build::Config::new()
        // Weights and texts stay slices of the file.
        .bytes(["."])
        // An attribute holds one of these at most: kept small, as models have many attributes.
        .boxed(".onnx.AttributeProto.t")
        .boxed(".onnx.AttributeProto.g")
        .boxed(".onnx.AttributeProto.tp")
        .boxed(".onnx.AttributeProto.sparse_tensor")
        .compile_fds(schema)?;
    Ok(())
}
