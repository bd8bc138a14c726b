//! The image service.

use std::sync::Arc;

use ferrolet::runtime::cri;
use futures::stream::Empty;
use tonic::{Request, Response, Status};

use super::Shared;
use super::model::{Image, Model, image_id};

#[derive(Clone)]
pub(super) struct Images(pub Arc<Shared>);

type Answer<T> = Result<Response<T>, Status>;

fn wire(name: &str, image: &Image) -> cri::Image {
    cri::Image {
        id: image_id(name),
        repo_tags: vec![name.to_owned()],
        size: 1_048_576,
        uid: image.uid.map(|value| cri::Int64Value { value }),
        username: image.username.clone(),
        ..Default::default()
    }
}

fn found(model: &Model, name_or_id: &str) -> Option<cri::Image> {
    let name = model.find_image(name_or_id)?;
    model.images.get(&name).map(|image| wire(&name, image))
}

#[tonic::async_trait]
impl cri::image_service_server::ImageService for Images {
    type StreamImagesStream = Empty<Result<cri::StreamImagesResponse, Status>>;

    async fn list_images(&self, _: Request<cri::ListImagesRequest>) -> Answer<cri::ListImagesResponse> {
        let call = self.0.enter("ListImages", "").await?;
        let images = self.0.model().images.iter().map(|(name, image)| wire(name, image)).collect();
        call.answer(Ok(cri::ListImagesResponse { images }))
    }

    async fn image_status(&self, request: Request<cri::ImageStatusRequest>) -> Answer<cri::ImageStatusResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let call = self.0.enter("ImageStatus", &name).await?;
        let image = found(&self.0.model(), &name);
        call.answer(Ok(cri::ImageStatusResponse { image, ..Default::default() }))
    }

    async fn pull_image(&self, request: Request<cri::PullImageRequest>) -> Answer<cri::PullImageResponse> {
        let request = request.into_inner();
        let name = request.image.unwrap_or_default().image;
        let user = request.auth.map_or(String::new(), |auth| auth.username);
        let pod_uid = request.sandbox_config.and_then(|c| c.metadata).map_or(String::new(), |m| m.uid);
        let call = self.0.enter_for("PullImage", &name, &pod_uid, "").await?;
        let script = self.0.model().pull_scripts.get(&name).cloned().unwrap_or_default();
        tokio::time::sleep(script.takes).await;
        let answer = {
            let mut model = self.0.model();
            let error = model.pull_scripts.get_mut(&name).and_then(|script| script.errors.pop_front());
            let refused = script.wants_user.is_some_and(|wanted| wanted != user);
            match (error, refused) {
                (Some(error), _) => Err(Status::unknown(error)),
                (None, true) => Err(Status::unknown(format!("failed to pull {name:?}: unauthorized"))),
                (None, false) => {
                    if model.find_image(&name).is_none() {
                        model.add_image(&name, None, "");
                    }
                    Ok(cri::PullImageResponse { image_ref: image_id(&name) })
                }
            }
        };
        call.answer(answer)
    }

    async fn remove_image(&self, request: Request<cri::RemoveImageRequest>) -> Answer<cri::RemoveImageResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let call = self.0.enter("RemoveImage", &name).await?;
        {
            let mut model = self.0.model();
            if let Some(name) = model.find_image(&name) {
                model.images.remove(&name);
            }
        }
        call.answer(Ok(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<cri::ImageFsInfoRequest>) -> Answer<cri::ImageFsInfoResponse> {
        let call = self.0.enter("ImageFsInfo", "").await?;
        let usage = cri::FilesystemUsage {
            timestamp: 1,
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: "/var/lib/fake".to_owned() }),
            used_bytes: Some(cri::UInt64Value { value: 1_048_576 }),
            inodes_used: Some(cri::UInt64Value { value: 10 }),
        };
        let (image_filesystems, container_filesystems) = (vec![usage.clone()], vec![usage]);
        call.answer(Ok(cri::ImageFsInfoResponse { image_filesystems, container_filesystems }))
    }

    async fn stream_images(&self, _: Request<cri::StreamImagesRequest>) -> Answer<Self::StreamImagesStream> {
        Err(Status::unimplemented("StreamImages"))
    }
}
