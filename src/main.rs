//! The `ferrolet` binary: behaves as the kubelet when installed as /usr/bin/kubelet.

fn main() {}
