//! The `ferrolet` binary: behaves as the kubelet when installed as /usr/bin/kubelet.

use std::process::ExitCode;

fn main() -> ExitCode {
    ferrolet::app::main(std::env::args_os().skip(1))
}
