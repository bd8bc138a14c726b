//! Compiles the wire definitions in proto/ with protox: Debian's protoc rejects the CRI definitions of this release.

use std::error::Error;

/// Messages that carry credentials get no derived `Debug`, so that no log line can print one.
const SECRET_MESSAGES: &[&str] = &["runtime.v1.AuthConfig", "runtime.v1.PullImageRequest"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["runtime/v1/api.proto"], ["proto"])?;
    let mut config = tonic_prost_build::Config::new();
    config.skip_debug(SECRET_MESSAGES);
    tonic_prost_build::configure()
        .build_client(true)
        // The server half is what the tests' fake runtime is made of.
        .build_server(true)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
