//! What a container finds mounted: its volumes, the hosts file, its termination message file; and its block devices.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, VolumeDevice, VolumeMount};

use crate::runtime::cri::{Device, ImageSpec, Mount, MountPropagation};

use super::environment::Environment;
use super::error::{RecursiveReadOnlyError, TranslateError};
use super::expansion::expand_sub_path;

/// A mount of a container, ready to be looked up on the node.
#[derive(Clone, Debug, PartialEq)]
pub struct MountRequest<'a> {
    /// Its place in `volumeMounts`; names the folder that a sub-path is bound to.
    pub index: usize,
    /// The mount of the spec.
    pub mount: &'a VolumeMount,
    /// The folder or file of the volume that is mounted, relative and without `..`; none for all of it.
    pub sub_path: Option<String>,
}

/// Where the content of a mount is.
#[derive(Clone, Debug, PartialEq)]
pub enum MountSource {
    /// On the node.
    Path {
        /// The volume's path, or that of the prepared sub-path.
        host_path: String,
        /// Whether the volume cannot be written, whatever the mount says.
        read_only: bool,
        /// Whether the runtime must label it for the pod (SELinux).
        selinux_relabel: bool,
    },
    /// In an image (KEP 4639).
    Image {
        /// What the pull gave: the image's digest or id.
        image_ref: String,
        /// The reference of the spec.
        reference: String,
        /// The pod's handler, if images are kept per handler.
        runtime_handler: String,
    },
}

/// A block volume on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// The link to the device in the pod's folder.
    pub host_path: String,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// A container's mounts in the order of its spec, sub-paths expanded and checked.
///
/// # Errors
/// When a sub-path refers to an unset variable or leads out of its volume.
pub fn mount_requests<'a>(
    container: &'a Container,
    environment: &Environment,
) -> Result<Vec<MountRequest<'a>>, TranslateError> {
    let request = |(index, mount): (usize, &'a VolumeMount)| {
        let sub_path = expand_sub_path(&container.name, mount, environment)?;
        if let Some(sub_path) = &sub_path {
            if sub_path.starts_with('/') {
                return Err(TranslateError::SubPathAbsolute { sub_path: sub_path.clone() });
            }
            if sub_path.split('/').any(|part| part == "..") {
                return Err(TranslateError::SubPathBackstep { sub_path: sub_path.clone() });
            }
        }
        Ok(MountRequest { index, mount, sub_path })
    };
    container.volume_mounts.iter().flatten().enumerate().map(request).collect()
}

/// How mounts look to the pod's runtime.
#[derive(Clone, Copy, Debug)]
pub(super) struct MountRules {
    pub is_selinux_enabled: bool,
    pub supports_recursive_read_only: bool,
}

/// The mounts of a container's volumes; `sources` stand in the order of `volumeMounts`.
pub(super) fn volume_mounts(
    container: &Container,
    environment: &Environment,
    sources: &[Option<MountSource>],
    annotations: &BTreeMap<String, String>,
    rules: MountRules,
) -> Result<Vec<Mount>, TranslateError> {
    let mount = |request: MountRequest<'_>| {
        let source = sources.get(request.index).and_then(Option::as_ref);
        let source = source.ok_or_else(|| TranslateError::VolumeNotFound {
            volume: request.mount.name.clone(),
            container: container.name.clone(),
        })?;
        let mut mount = Mount {
            container_path: absolute(&request.mount.mount_path),
            readonly: request.mount.read_only == Some(true),
            propagation: propagation(request.mount)? as i32,
            recursive_read_only: recursive_read_only(request.mount, rules.supports_recursive_read_only)?,
            mount_options: request.mount.bind_mount_options.clone().unwrap_or_default(),
            ..Mount::default()
        };
        match source {
            MountSource::Path { host_path, read_only, selinux_relabel } => {
                mount.host_path.clone_from(host_path);
                mount.readonly |= read_only;
                mount.selinux_relabel = *selinux_relabel && rules.is_selinux_enabled;
            }
            MountSource::Image { image_ref, reference, runtime_handler } => {
                // An image is never written to.
                mount.readonly = true;
                mount.image_sub_path = request.sub_path.unwrap_or_default();
                mount.image = Some(ImageSpec {
                    image: image_ref.clone(),
                    user_specified_image: reference.clone(),
                    runtime_handler: runtime_handler.clone(),
                    annotations: annotations.clone().into_iter().collect(),
                    ..ImageSpec::default()
                });
            }
        }
        Ok(mount)
    };
    mount_requests(container, environment)?.into_iter().map(mount).collect()
}

/// A file that the agent itself gives to a container.
pub(super) fn own_file(host_path: String, container_path: &str, rules: MountRules) -> Mount {
    Mount {
        host_path,
        container_path: absolute(container_path),
        selinux_relabel: rules.is_selinux_enabled,
        ..Mount::default()
    }
}

/// The devices of a container's block volumes; `devices` stand in the order of `volumeDevices`.
pub(super) fn block_devices(
    container: &Container,
    devices: &[Option<BlockDevice>],
) -> Result<Vec<Device>, TranslateError> {
    let device = |(index, wanted): (usize, &VolumeDevice)| {
        if !wanted.device_path.starts_with('/') {
            return Err(TranslateError::DevicePathRelative { path: wanted.device_path.clone() });
        }
        let device = devices.get(index).and_then(Option::as_ref);
        let device = device.ok_or_else(|| TranslateError::BlockVolumeNotFound {
            volume: wanted.name.clone(),
            container: container.name.clone(),
        })?;
        let permissions = if device.read_only { "r" } else { "mrw" };
        Ok(Device {
            container_path: wanted.device_path.clone(),
            host_path: device.host_path.clone(),
            permissions: permissions.to_owned(),
        })
    };
    container.volume_devices.iter().flatten().enumerate().map(device).collect()
}

fn propagation(mount: &VolumeMount) -> Result<MountPropagation, TranslateError> {
    match mount.mount_propagation.as_deref() {
        None | Some("None") => Ok(MountPropagation::PropagationPrivate),
        Some("HostToContainer") => Ok(MountPropagation::PropagationHostToContainer),
        Some("Bidirectional") => Ok(MountPropagation::PropagationBidirectional),
        Some(unknown) => Err(TranslateError::MountPropagation { mode: unknown.to_owned() }),
    }
}

/// Whether a mount is read-only all the way down.
///
/// # Errors
/// When the mount asks for it and it makes no sense or cannot be had.
pub fn recursive_read_only(mount: &VolumeMount, is_supported: bool) -> Result<bool, RecursiveReadOnlyError> {
    let mode = match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => return Ok(false),
        Some(mode) => mode,
    };
    let volume = || mount.name.clone();
    if mount.read_only != Some(true) {
        return Err(RecursiveReadOnlyError::NotReadOnly { volume: volume() });
    }
    if let Some(propagation) = mount.mount_propagation.clone().filter(|p| p != "None") {
        return Err(RecursiveReadOnlyError::Propagation { volume: volume(), propagation });
    }
    match mode {
        "IfPossible" => Ok(is_supported),
        "Enabled" if is_supported => Ok(true),
        "Enabled" => Err(RecursiveReadOnlyError::Unsupported { volume: volume() }),
        unknown => Err(RecursiveReadOnlyError::UnknownMode { mode: unknown.to_owned() }),
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
