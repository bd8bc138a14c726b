use std::fs;

use tokio::task::JoinSet;

use super::*;

fn manifest(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: {image}}}]}}\n"
    )
}

/// A running source over a folder.
struct Bench {
    folder: tempfile::TempDir,
    pods: StaticPodsReceiver,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifests");
        fs::create_dir(&path).unwrap();
        Bench::over(folder, &path)
    }

    fn over(folder: tempfile::TempDir, path: &Path) -> Self {
        // The slow look is out of reach: what the tests see, the watch has told.
        let (source, pods) = FileSource::new(path, "node", Duration::from_secs(3600));
        let (cancel, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(source.run(cancel.clone()));
        Bench { folder, pods, cancel, tasks }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("manifests").join(name)
    }

    /// Waits until the source tells of pods with these names and images.
    async fn until(&self, expected: &[(&str, &str)]) -> StaticPods {
        let shown = |told: &StaticPods| -> Vec<(String, String)> {
            let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
            told.pods.iter().map(|pod| (pod.metadata.name.clone().unwrap(), image(pod))).collect()
        };
        let expected: Vec<(String, String)> =
            expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let mut pods = self.pods.clone();
        let wanted = pods.wait_for(|told| told.as_ref().is_some_and(|told| shown(told) == expected));
        let told = tokio::time::timeout(Duration::from_secs(20), wanted).await;
        if let Ok(told) = told {
            return told.unwrap().clone().unwrap();
        }
        panic!("wanted {expected:?}, got {:?}", self.pods.borrow().as_ref().map(shown))
    }

    async fn end(mut self) {
        self.cancel.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

#[tokio::test]
async fn a_folder_is_followed() {
    let bench = Bench::new();
    assert!(bench.until(&[]).await.complete);
    fs::write(bench.file("b.yaml"), manifest("b", "x:1")).unwrap();
    let first = bench.until(&[("b-node", "x:1")]).await;
    fs::write(bench.file("a.json"), manifest("a", "x:1")).unwrap();
    fs::write(bench.file(".hidden.yaml"), manifest("hidden", "x:1")).unwrap();
    fs::create_dir(bench.file("folder")).unwrap();
    fs::write(bench.file("folder").join("c.yaml"), manifest("c", "x:1")).unwrap();
    let second = bench.until(&[("a-node", "x:1"), ("b-node", "x:1")]).await;
    assert!(std::sync::Arc::ptr_eq(&first.pods[0], &second.pods[1]));
    // An editor writes another file and moves it over the one.
    fs::write(bench.file(".b.yaml.swp"), manifest("b", "x:2")).unwrap();
    fs::rename(bench.file(".b.yaml.swp"), bench.file("b.yaml")).unwrap();
    let third = bench.until(&[("a-node", "x:1"), ("b-node", "x:2")]).await;
    assert_ne!(second.pods[1].metadata.uid, third.pods[1].metadata.uid);
    fs::remove_file(bench.file("a.json")).unwrap();
    bench.until(&[("b-node", "x:2")]).await;
    bench.end().await;
}

#[tokio::test]
async fn a_file_that_is_put_back_as_it_was_holds_a_new_pod() {
    let bench = Bench::new();
    fs::write(bench.file("a.yaml"), manifest("a", "x:1")).unwrap();
    let first = bench.until(&[("a-node", "x:1")]).await;
    let (path, aside) = (bench.file("a.yaml"), bench.file(".aside"));
    for how in ["written again", "moved away and back"] {
        if how == "written again" {
            fs::remove_file(&path).unwrap();
            fs::write(&path, manifest("a", "x:1")).unwrap();
        } else {
            fs::rename(&path, &aside).unwrap();
            fs::rename(&aside, &path).unwrap();
        }
        bench.until(&[]).await;
        let second = bench.until(&[("a-node", "x:1")]).await;
        assert_eq!(first.pods[0].metadata.uid, second.pods[0].metadata.uid, "{how}");
    }
    bench.end().await;
}

#[tokio::test]
async fn what_cannot_be_read_leaves_the_pod_as_it_was() {
    let mut bench = Bench::new();
    fs::write(bench.file("a.yaml"), manifest("a", "x:1")).unwrap();
    bench.until(&[("a-node", "x:1")]).await;
    fs::write(bench.file("a.yaml"), "kind: Pod\nmetadata: [").unwrap();
    fs::write(bench.file("b.yaml"), manifest("b", "x:1")).unwrap();
    let told = bench.until(&[("a-node", "x:1"), ("b-node", "x:1")]).await;
    assert!(told.complete, "the pod of each manifest is known");
    fs::write(bench.file("c.yaml"), "nonsense").unwrap();
    bench.pods.wait_for(|told| told.as_ref().is_some_and(|told| !told.complete)).await.unwrap();
    fs::remove_file(bench.file("c.yaml")).unwrap();
    bench.pods.wait_for(|told| told.as_ref().is_some_and(|told| told.complete)).await.unwrap();
    fs::write(bench.file("a.yaml"), manifest("a", "x:3")).unwrap();
    bench.until(&[("a-node", "x:3"), ("b-node", "x:1")]).await;
    bench.end().await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_left_until_it_is_closed() {
    use std::io::Write;
    let bench = Bench::new();
    bench.until(&[]).await;
    let text = manifest("a", "x:1").replace("}]}\n", "}]}\n# the end\n");
    let mut file = fs::File::create(bench.file("a.yaml")).unwrap();
    // Half of it is a pod already, of another image.
    file.write_all(manifest("a", "half").as_bytes()).unwrap();
    file.flush().unwrap();
    fs::write(bench.file("b.yaml"), manifest("b", "x:1")).unwrap();
    bench.until(&[("b-node", "x:1")]).await;
    file.set_len(0).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    drop(file);
    bench.until(&[("a-node", "x:1"), ("b-node", "x:1")]).await;
    bench.end().await;
}

#[tokio::test]
async fn one_file_is_followed_through_its_replacement() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("manifests")).unwrap();
    let path = folder.path().join("manifests/a.yaml");
    fs::write(&path, manifest("a", "x:1")).unwrap();
    let bench = Bench::over(folder, &path);
    bench.until(&[("a-node", "x:1")]).await;
    fs::write(bench.file("other.yaml"), manifest("other", "x:1")).unwrap();
    fs::write(bench.file("new"), manifest("a", "x:2")).unwrap();
    fs::rename(bench.file("new"), &path).unwrap();
    bench.until(&[("a-node", "x:2")]).await;
    fs::remove_file(&path).unwrap();
    bench.until(&[]).await;
    bench.end().await;
}

#[tokio::test]
async fn a_path_that_is_not_there_holds_no_pods_and_is_found_when_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifests");
    let bench = Bench::over(folder, &path);
    assert!(bench.until(&[]).await.complete);
    fs::create_dir(&path).unwrap();
    fs::write(bench.file("a.yaml"), manifest("a", "x:1")).unwrap();
    bench.until(&[("a-node", "x:1")]).await;
    fs::remove_dir_all(&path).unwrap();
    bench.until(&[]).await;
    bench.end().await;
}

#[test]
fn only_what_is_a_manifest_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let big = folder.path().join("big");
    fs::File::create(&big).unwrap().set_len(MAX_MANIFEST + 1).unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.path().join("link")).unwrap();
    let Scan::Files(found) = scan(folder.path(), &HashMap::new(), &HashSet::new(), &HashSet::new()).unwrap() else {
        panic!()
    };
    let faults: Vec<String> = found
        .values()
        .map(|found| match found {
            Found::Failed(Some(_), fault) => fault.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(faults, ["the read limit is reached", "Manifest path is not a directory or file"]);
    assert!(scan(&socket, &HashMap::new(), &HashSet::new(), &HashSet::new()).is_err());
}
