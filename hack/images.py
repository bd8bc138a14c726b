#!/usr/bin/env python3
"""Container images made without a registry, from Debian packages and programs built here.

    images.py build NAME...   one OCI archive per name in $IMAGES, for `ctr -n k8s.io images import`; only what is missing
    images.py serve PORT      a read-only registry over those archives (imagePullPolicy: Always), found by containerd
                              through $IMAGES/certs.d

Each image is one uncompressed linux/amd64 layer. An image carries the names that the upstream suites ask for, with an image
id per name: a runtime reports the first tag of a container's image id, and tests compare that with what they asked for.
"""
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile

IMAGES, BIN, CACHE = os.environ["IMAGES"], os.environ["BIN"], os.environ["FERROLET_CACHE"]
E2E = "registry.k8s.io/e2e-test-images/"
KUBERNETES = os.environ.get("KUBERNETES_VERSION", "")


def output(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **options).stdout


# ---------------------------------------------------------------- Debian packages, downloaded, never installed

# What a package depends on, but a container does not need.
NEEDLESS = re.compile(
    r"^(debconf|cdebconf|dpkg|install-info|tar|libdebian-installer4|libnewt0\.52|libslang2|libtextwrap1|lsb-base|"
    r"sysvinit-utils|init-system-helpers|debianutils|base-files|login|libpam-.*|util-linux-extra|gcc-12-base|ucf|"
    r"sensible-utils|netbase|passwd|adduser|perl-base|iproute2)$")


def packages(*names):
    """Paths of the .deb files of the named packages and all that they need."""
    listing = output("apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks",
                     "--no-replaces", "--no-enhances", *names, text=True)
    needs, current = {}, None
    for line in listing.splitlines():
        if not line.startswith(" "):
            current = needs.setdefault(line.strip(), [])
        # " |Depends:" is an alternative, which another line satisfies.
        elif found := re.match(r"^  (?:Pre)?Depends: ([^<\s:]+)$", line):
            current.append(found[1])
    chosen, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name not in chosen and name in needs and (name in names or not NEEDLESS.match(name)):
            chosen.add(name)
            todo += needs[name]
    folder = os.path.join(CACHE, "debs")
    os.makedirs(folder, exist_ok=True)

    def held(name):
        return sorted(f for f in os.listdir(folder) if f.startswith(name + "_") and f.endswith(".deb"))
    missing = sorted(name for name in chosen if not held(name))
    if missing:
        print("download", *missing, flush=True)
        subprocess.run(["apt-get", "download", "-q", *missing], check=True, cwd=folder)
    return [os.path.join(folder, held(name)[-1]) for name in sorted(chosen)]


# ---------------------------------------------------------------- a layer

DOCUMENTATION = re.compile(r"^usr/share/(doc|man|locale|info|lintian|bash-completion)(/|$)")
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # live under usr/, as in Debian


class Layer:
    def __init__(self, bare=False):
        self.entries, self.bare = {}, bare
        if bare:
            return
        self.folders("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "dev", "proc", "sys", "etc", "run", "home", "mnt", "var/lib", "var/log")
        self.folders("tmp", "var/tmp", mode=0o1777).folders("root", mode=0o700)
        for name in ("bin", "sbin", "lib", "lib64"):
            self._put(name, tarfile.SYMTYPE, link="usr/" + name, raw=True)
        self._put("var/run", tarfile.SYMTYPE, link="/run", raw=True)

    def _path(self, path):
        path = re.sub(r"^(\./|/)+", "", path).rstrip("/")
        if path in ("", "."):
            return ""
        if not self.bare:
            if path.split("/")[0] in MERGED:
                path = "usr/" + path
            if path == "var/run" or path.startswith("var/run/"):
                path = path[4:]
        return path

    def _put(self, path, kind, data=None, mode=0o777, owner=(0, 0), link="", raw=False):
        path = path if raw else self._path(path)
        if path:
            info = tarfile.TarInfo(path)
            info.type, info.mode, info.linkname, info.size = kind, mode, link, len(data or b"")
            info.uid, info.gid = owner
            self.entries[path] = (info, data)

    def folders(self, *paths, mode=0o755, owner=(0, 0)):
        for path in paths:
            self._put(path, tarfile.DIRTYPE, mode=mode, owner=owner)
        return self

    def file(self, path, data, mode=0o644):
        self._put(path, tarfile.REGTYPE, data.encode() if isinstance(data, str) else data, mode)
        return self

    def copy(self, path, source, mode=0o755):
        with open(source, "rb") as file:
            return self.file(path, file.read(), mode)

    def link(self, path, target):
        self._put(path, tarfile.SYMTYPE, link=target)
        return self

    def drop(self, *paths):
        for path in paths:
            self.entries.pop(self._path(path), None)
        return self

    def debian(self, *names):
        for package in packages(*names):
            with tarfile.open(fileobj=io.BytesIO(output("dpkg-deb", "--fsys-tarfile", package))) as archive:
                for member in archive:
                    path = self._path(member.name)
                    if not path or DOCUMENTATION.match(path) or (member.isdir() and path in self.entries):
                        continue
                    owner = (member.uid, member.gid)
                    if member.isdir():
                        self.folders(path, mode=member.mode, owner=owner)
                    elif member.issym():
                        self.link(path, member.linkname)
                    elif member.isreg() or member.islnk():
                        self._put(path, tarfile.REGTYPE, archive.extractfile(member).read(), member.mode, owner)
        return self

    def archive(self):
        entries = dict(self.entries)
        for path in list(entries):
            while "/" in path:
                path = path.rsplit("/", 1)[0]
                if path not in entries:
                    info = tarfile.TarInfo(path)
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    entries[path] = (info, None)
        return tar((info, data) for _, (info, data) in sorted(entries.items()))


def tar(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data) if data is not None else None)
    return out.getvalue()


# ---------------------------------------------------------------- OCI

def encoded(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def descriptor(kind, blob, **more):
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(blob), "size": len(blob), **more}


def digest(blob):
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def manifest_of(reference, layer, settings):
    settings = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], **settings,
                "Labels": {"ferrolet.image": reference}}
    config = encoded({"architecture": "amd64", "os": "linux", "created": "1970-01-01T00:00:00Z", "config": settings,
                      "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
                      "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "hack/images.py"}]})
    manifest = encoded({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                        "config": descriptor("config.v1+json", config), "layers": [descriptor("layer.v1.tar", layer)]})
    return manifest, config


def write(name, references, layer, settings):
    blobs, manifests = [layer], []
    for reference in references:
        manifest, config = manifest_of(reference, layer, settings)
        blobs += [manifest, config]
        manifests.append(descriptor("manifest.v1+json", manifest, platform={"architecture": "amd64", "os": "linux"}, annotations={
            "io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference.rsplit(":", 1)[1]}))
    index = encoded({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests})

    def entry(path, data):
        info = tarfile.TarInfo(path)
        info.size = len(data)
        return info, data
    path = os.path.join(IMAGES, name + ".tar")
    with open(path + ".new", "wb") as file:
        file.write(tar([entry("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), entry("index.json", index),
                        *(entry("blobs/sha256/" + digest(blob)[7:], blob) for blob in blobs)]))
    os.replace(path + ".new", path)
    print(f"{name}: {os.path.getsize(path) / 1e6:.1f} MB: {' '.join(references)}", flush=True)


# ---------------------------------------------------------------- the images

PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP = "root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\nmail:x:8:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n"

# Not applets for a container, or ones that would end it.
UNWANTED = {"busybox", "dpkg", "dpkg-deb", "rpm", "init", "linuxrc", "run-init", "poweroff", "reboot", "halt"}


def busybox_program():
    """Path of a static busybox with its own default configuration, built from Debian's source package.

    The suites' images hold such a one. Debian's builds lack applets that the suites call (nmeter, pgrep), and their shell
    prefers applets to what is on PATH and drops variables with names such as "data-1" from the environment."""
    folder = os.path.join(CACHE, "busybox")
    program = os.path.join(folder, "busybox")
    if os.path.exists(program):
        return program
    print("build busybox", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "lists", "partial"))
    with open("/etc/os-release") as file:
        release = re.search(r"^VERSION_CODENAME=(\S+)", file.read(), re.M)[1]
    sites = output("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages", "Component: main", text=True)
    with open(os.path.join(folder, "sources.list"), "w") as file:
        file.writelines(f"deb-src {site} main\n" for site in sorted(set(sites.splitlines())) if f" {release}" in site)
    apt = ["apt-get", "-q", "-o", f"Dir::Etc::SourceList={folder}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null",
           "-o", f"Dir::State::Lists={folder}/lists", "-o", "APT::Sandbox::User=root"]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "source", "--download-only", "busybox"], check=True, cwd=folder)
    archive, = (name for name in os.listdir(folder) if ".orig.tar." in name)
    with tarfile.open(os.path.join(folder, archive)) as file:
        file.extractall(folder)
    source, = (entry.path for entry in os.scandir(folder) if entry.is_dir() and entry.name.startswith("busybox-"))
    subprocess.run(["make", "-s", "defconfig"], check=True, cwd=source)
    settings = os.path.join(source, ".config")
    with open(settings) as file:
        text = file.read()
    # tc is written for older kernel headers than there are.
    text = text.replace("# CONFIG_STATIC is not set", "CONFIG_STATIC=y").replace("CONFIG_TC=y", "# CONFIG_TC is not set")
    with open(settings, "w") as file:
        file.write(text)
    subprocess.run(["make", "-s", "oldconfig"], check=True, cwd=source, input=b"\n" * 100)
    subprocess.run(["make", "-s", f"-j{os.cpu_count()}", "busybox"], check=True, cwd=source)
    os.replace(os.path.join(source, "busybox"), program)
    shutil.rmtree(source)
    return program


def box(users="", groups=""):
    program = busybox_program()
    layer = Layer().copy("bin/busybox", program)
    for applet in output(program, "--list", text=True).split():
        if applet not in UNWANTED:
            layer.link("bin/" + applet, "busybox")
    layer.file("etc/passwd", PASSWD + users).file("etc/group", GROUP + groups)
    layer.file("etc/shadow", "root:*:::::::\nnobody:*:::::::\n", 0o640)
    layer.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    return layer.folders("var/spool/mail", "var/www", "etc/network/if-up.d")


def pause():
    program = os.path.join(CACHE, "pause")
    subprocess.run(["gcc", "-Os", "-static", "-s", "-o", program, os.path.join(os.path.dirname(os.path.abspath(__file__)), "pause.c")], check=True)
    layer = Layer(bare=True).copy("pause", program)
    return [os.environ["PAUSE_IMAGE"]], layer.archive(), {"Entrypoint": ["/pause"], "User": "65535:65535"}


def busybox():
    return ["docker.io/library/busybox:latest", "docker.io/library/busybox:1.35"], box().archive(), {"Cmd": ["sh"]}


def e2e_busybox():
    return [E2E + "busybox:1.37.0-2", E2E + "busybox:1.36.1-1"], box().archive(), {"Cmd": ["sh"]}


def nginx():
    layer = box("nginx:x:101:101:nginx:/var/cache/nginx:/bin/false\n", "nginx:x:101:\n").debian("nginx")
    layer.file("etc/nginx/nginx.conf", """user nginx;
pid /var/run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 1024; }
http {
    include /etc/nginx/mime.types;
    access_log /dev/stdout;
    server { listen 80; listen [::]:80; location / { root /usr/share/nginx/html; index index.html; } }
}
""")
    layer.folders("var/lib/nginx", "var/cache/nginx", "var/log/nginx")
    return ([E2E + "nginx:1.27.0-2", E2E + "nginx:1.28.0-2", "docker.io/library/nginx:latest"], layer.archive(),
            {"Cmd": ["nginx", "-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT"})


def agnhost():
    layer = box("user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n",
                "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n")
    layer.drop(*("bin/" + name for name in ("ip", "nc", "nslookup", "nsenter", "unshare", "lsblk")))
    layer.debian("bash", "bind9-dnsutils", "bind9-host", "curl", "netcat-openbsd", "iproute2", "iperf", "util-linux", "socat")
    layer.link("bin/nc", "nc.openbsd").link("bin/ip", "/sbin/ip").link("usr/local/bin/iperf", "/usr/bin/iperf")
    layer.folders("home/user-defined-in-image", owner=(1000, 1000)).folders("uploads")
    modules = output("go", "env", "GOMODCACHE", text=True).strip()
    porter = os.path.join(modules, f"k8s.io/kubernetes@v{KUBERNETES}", "test/images/agnhost/porter")
    for name in ("localhost.crt", "localhost.key"):
        layer.copy(name, os.path.join(porter, name), 0o644)
    layer.copy("agnhost", os.path.join(BIN, "agnhost")).link("agnhost-2", "agnhost")
    fake_registry(layer)
    return ([E2E + "agnhost:2.66.1", E2E + "agnhost:2.55"], layer.archive(), {
        "Entrypoint": ["/agnhost"], "Cmd": ["pause"], "ExposedPorts": {f"{port}/tcp": {} for port in (80, 5000, 8080, 8081, 9376)}})


def fake_registry(layer):
    """The content of the registry that agnhost can serve: pause as localhost:5000/pause:testing, laid out by digest."""
    _, blob, settings = pause()
    manifest, config = manifest_of("localhost:5000/pause:testing", blob, settings)

    def place(kind, data):
        sha = digest(data)[7:]
        layer.file(f"var/registry/pause/{kind}/sha256/{sha[:2]}/{sha}/data", data)
    place("manifests", manifest)
    place("blobs", config)
    place("blobs", blob)
    layer.file("var/registry/pause/manifests/testing", digest(manifest) + "\n")


def control_plane(name, tag):
    """A program of the control plane in an image by the name that kubeadm asks for."""
    def recipe():
        layer = box().copy("usr/local/bin/" + name, os.path.join(BIN, name))
        return [f"registry.k8s.io/{name}:{tag}"], layer.archive(), {"Entrypoint": ["/usr/local/bin/" + name]}
    return recipe


def nonewprivs():
    program, modules = os.path.join(CACHE, "nnp"), output("go", "env", "GOMODCACHE", text=True).strip()
    source = os.path.join(modules, f"k8s.io/kubernetes@v{KUBERNETES}", "test/images/nonewprivs/nnp.go")
    subprocess.run(["go", "build", "-ldflags", "-s -w", "-o", program, source], check=True, cwd="/", env={**os.environ, "CGO_ENABLED": "0"})
    return [E2E + "nonewprivs:1.4"], box().copy("usr/local/bin/nnp", program, 0o6755).archive(), {"Cmd": ["nnp"]}


def nonroot():
    return [E2E + "nonroot:1.5"], box().archive(), {"User": "1234", "Cmd": ["sh"]}


def perl():
    return [E2E + "perl:5.26"], box().debian("perl-base").archive(), {"Cmd": ["perl", "-de0"]}


def ipc_utils():
    return [E2E + "ipc-utils:1.4"], box().drop("bin/ipcs", "bin/ipcrm").debian("util-linux").archive(), {"Cmd": ["sh"]}


def glibc_dns_testing():
    # The real hostname, whose -f asks the resolver of the C library.
    layer = box().drop(*("bin/" + name for name in ("hostname", "nslookup", "dnsdomainname")))
    layer.debian("bash", "hostname", "libc-bin", "bind9-dnsutils", "bind9-host")
    return [E2E + "glibc-dns-testing:2.1.1"], layer.archive(), {"Cmd": ["bash"]}


RECIPES = {"pause": pause, "busybox": busybox, "e2e-busybox": e2e_busybox, "nginx": nginx, "agnhost": agnhost, "nonewprivs": nonewprivs, "nonroot": nonroot,
           "perl": perl, "ipc-utils": ipc_utils, "glibc-dns-testing": glibc_dns_testing, "etcd": control_plane("etcd", "3.7.0-0"),
           **{name: control_plane(name, "v" + KUBERNETES) for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")}}


def build(names):
    with open(os.path.abspath(__file__), "rb") as file:
        recipe = hashlib.sha256(file.read() + KUBERNETES.encode()).hexdigest()
    for name in names:
        stamp = os.path.join(CACHE, "stamps", f"image-{name}")
        if os.path.exists(os.path.join(IMAGES, name + ".tar")) and os.path.exists(stamp) and open(stamp).read() == recipe:
            continue
        write(name, *RECIPES[name]())
        with open(stamp, "w") as file:
            file.write(recipe)


# ---------------------------------------------------------------- the registry

def serve(port):
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    blobs, tags, hosts = {}, {}, set()
    for name in sorted(os.listdir(IMAGES)):
        if not name.endswith(".tar"):
            continue
        path = os.path.join(IMAGES, name)
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.startswith("blobs/sha256/"):
                    blobs["sha256:" + member.name[13:]] = (path, member.offset_data, member.size)
            for manifest in json.load(archive.extractfile("index.json"))["manifests"]:
                reference, tag = manifest["annotations"]["io.containerd.image.name"].rsplit(":", 1)
                host, repository = reference.split("/", 1)
                hosts.add(host)
                tags[repository, tag] = manifest["digest"]
    for host in hosts:
        folder = os.path.join(IMAGES, "certs.d", host)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "hosts.toml"), "w") as file:
            file.write(f'[host."http://127.0.0.1:{port}"]\n  capabilities = ["pull", "resolve"]\n')

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def head(self, status, kind, length, **headers):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(length))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()

        def answer(self, with_body):
            path = self.path.split("?")[0]
            found = re.match(r"^/v2/(.+)/(manifests|blobs)/(.+)$", path)
            wanted = found and (found[3] if found[3].startswith("sha256:") else tags.get((found[1], found[3])))
            if wanted not in blobs:
                status, body = (200, b"{}") if path == "/v2/" else (404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
                self.head(status, "application/json", len(body))
                return with_body and self.wfile.write(body)
            archive, offset, size = blobs[wanted]
            kind = "application/vnd.oci.image.manifest.v1+json" if found[2] == "manifests" else "application/octet-stream"
            self.head(200, kind, size, Docker_Content_Digest=wanted)
            if with_body:
                with open(archive, "rb") as file:
                    file.seek(offset)
                    while size > 0:
                        chunk = file.read(min(size, 1 << 20))
                        self.wfile.write(chunk)
                        size -= len(chunk)

        def do_GET(self):
            self.answer(True)

        def do_HEAD(self):
            self.answer(False)

        def log_message(self, *arguments):
            pass

    print(f"registry on 127.0.0.1:{port}: {len(tags)} tags", flush=True)
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["build", *names] if names and all(name in RECIPES for name in names):
            build(names)
        case ["serve", port]:
            serve(int(port))
        case _:
            sys.exit(__doc__ + "\nnames: " + " ".join(RECIPES))
