//! The image half of the runtime client.

use tonic::transport::Channel;

use super::client::{RuntimeClient, Service, malformed};
use super::cri;
use super::cri::image_service_client::ImageServiceClient;
use super::error::RuntimeError;

type Images = ImageServiceClient<Channel>;

impl RuntimeClient {
    /// The images on the node.
    ///
    /// # Errors
    /// As every call: see [`RuntimeError`].
    pub async fn list_images(&self) -> Result<Vec<cri::Image>, RuntimeError> {
        let mut client: Images = self.image_service();
        let message = cri::ListImagesRequest { filter: None };
        let timeout = Some(self.request_timeout());
        let send = |m| async move { client.list_images(m).await };
        Ok(self.call(Service::Images, "ListImages", timeout, message, send).await?.images)
    }

    /// An image on the node, or none if it is not there.
    ///
    /// # Errors
    /// As every call, and [`RuntimeError::Malformed`] for an image without an id or size.
    pub async fn image_status(&self, image: cri::ImageSpec) -> Result<Option<cri::Image>, RuntimeError> {
        let mut client: Images = self.image_service();
        let name = image.image.clone();
        let message = cri::ImageStatusRequest { image: Some(image), verbose: false };
        let timeout = Some(self.request_timeout());
        let send = |m| async move { client.image_status(m).await };
        let found = self.call(Service::Images, "ImageStatus", timeout, message, send).await?.image;
        match found {
            Some(image) if image.id.is_empty() || image.size == 0 => {
                Err(malformed("ImageStatus", &format!("id or size of image {name:?} is not set")))
            }
            found => Ok(found),
        }
    }

    /// Pulls an image, for as long as it takes; the reference by which containers are made of it. Dropping the future ends
    /// the pull.
    ///
    /// # Errors
    /// As every call.
    pub async fn pull_image(
        &self,
        image: cri::ImageSpec,
        auth: Option<cri::AuthConfig>,
        sandbox_config: Option<cri::PodSandboxConfig>,
    ) -> Result<String, RuntimeError> {
        let mut client: Images = self.image_service();
        let name = image.image.clone();
        let message = cri::PullImageRequest { image: Some(image), auth, sandbox_config };
        let send = |m| async move { client.pull_image(m).await };
        let reference = self.call(Service::Images, "PullImage", None, message, send).await?.image_ref;
        if reference.is_empty() {
            return Err(malformed("PullImage", &format!("the reference of image {name:?} is not set")));
        }
        Ok(reference)
    }

    /// Removes an image by name or id. Idempotent.
    ///
    /// # Errors
    /// As every call.
    pub async fn remove_image(&self, image: &str) -> Result<(), RuntimeError> {
        let mut client: Images = self.image_service();
        let image = Some(cri::ImageSpec { image: image.to_owned(), ..Default::default() });
        let timeout = Some(self.request_timeout());
        let send = |m| async move { client.remove_image(m).await };
        self.call(Service::Images, "RemoveImage", timeout, cri::RemoveImageRequest { image }, send).await.map(drop)
    }

    /// Use of the file systems that hold images and containers' writable layers.
    ///
    /// # Errors
    /// As every call.
    pub async fn image_fs_info(&self) -> Result<cri::ImageFsInfoResponse, RuntimeError> {
        let mut client: Images = self.image_service();
        let timeout = Some(self.request_timeout());
        let send = |m| async move { client.image_fs_info(m).await };
        self.call(Service::Images, "ImageFsInfo", timeout, cri::ImageFsInfoRequest {}, send).await
    }
}
