//! Generates the types and the routes of the gRPC API from `proto/`: for the library its server, and for tests a client.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

const FILES: [&str; 3] =
    ["salebell/v1/catalogue.proto", "salebell/v1/games.proto", "salebell/v1/prices.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    // Without these lines, a change of any file of the package would run this again.
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    // Reflection serves it, comments and all.
    fs::write(out.join("salebell.v1.bin"), compiler.encode_file_descriptor_set())?;
    let descriptors = compiler.file_descriptor_set();
    // Observations are decoded one by one, so that one that is malformed costs no other.
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .extern_path(".salebell.v1.ReportRequest", "crate::grpc::reports::RawReport")
        .out_dir(folder(&out, "server")?)
        .compile_fds(descriptors.clone())?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .out_dir(folder(&out, "client")?)
        .compile_fds(descriptors)?;
    Ok(())
}

fn folder(out: &Path, name: &str) -> std::io::Result<PathBuf> {
    let folder = out.join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
