//! Makes sure that wgpu can find an adapter: on Linux a Vulkan loader and a driver, if need be Mesa's software driver.
//!
//! What is there is probed first, then a pure function decides what to do, so that a machine that has it all is left
//! alone and every branch can be tested without changing a machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the Vulkan loader looks for the manifests of system-wide drivers.
const MANIFEST_FOLDERS: [&str; 3] = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

/// Variables that replace those folders, the one that the loader prefers first.
const MANIFEST_VARIABLES: [&str; 2] = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];

const PACKAGES: [&str; 2] = ["mesa-vulkan-drivers", "libvulkan1"];

/// OpenGL without a window system, and Mesa's software driver for it.
const GL_PACKAGES: [&str; 2] = ["libegl1", "libgl1-mesa-dri"];

/// Open MPI with its headers, and what reads them.
const MPI_PACKAGES: [&str; 3] = ["libopenmpi-dev", "openmpi-bin", "libclang-dev"];

const BY_HAND: &str = "\
Install a Vulkan loader and a driver; without a GPU, that is Mesa's software driver:
  Debian, Ubuntu  apt-get install mesa-vulkan-drivers libvulkan1
  Fedora          dnf install mesa-vulkan-drivers vulkan-loader
  Arch            pacman -S vulkan-swrast vulkan-icd-loader";

/// What a Linux machine has of Vulkan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Drivers {
    loader: bool,
    manifests: Manifests,
    /// A device node of a GPU exists.
    gpu: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manifests {
    /// A variable names the drivers, so that the installed ones do not count. Whether one of the named files exists.
    Named { exist: bool },
    /// The ones in the system's folders.
    Installed(Installed),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Installed {
    None,
    /// Drivers of GPUs only. Debian installs those of Intel and AMD on every machine, GPU or not.
    Hardware,
    /// Mesa's software driver among them.
    Software,
}

/// How packages can be installed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Installer {
    AptAsRoot,
    AptWithSudo,
    None,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Nothing {
        because: &'static str,
    },
    Install {
        sudo: bool,
    },
    /// Something is missing, and the user has to install it.
    Explain,
    /// The environment leads the loader astray, which installing a driver does not change.
    RefuseEnvironment,
}

/// Installs what is missing, or says what to install. The error is a message for the user.
pub fn run() -> Result<(), String> {
    match env::consts::OS {
        "macos" | "ios" => {
            println!("setup: nothing to install, Metal comes with the system");
            return Ok(());
        }
        "windows" => {
            println!("setup: nothing to install, Direct3D 12 and its software adapter WARP come with the system");
            return Ok(());
        }
        _ => {}
    }
    match decide(probe_drivers(), probe_installer) {
        Action::Nothing { because } => {
            println!("setup: nothing to install, {because}");
            Ok(())
        }
        Action::RefuseEnvironment => {
            Err("VK_DRIVER_FILES or VK_ICD_FILENAMES is set, but no file that it names exists: \
             correct it, or unset it to use the system's drivers"
                .into())
        }
        Action::Explain => Err(format!(
            "no Vulkan loader with a usable driver found, and no way to install them from here \
             (that takes apt-get, and root or a sudo that asks for no password)\n{BY_HAND}"
        )),
        Action::Install { sudo } => {
            println!("setup: no Vulkan loader with a usable driver found, installing Mesa's software driver");
            install(sudo, &PACKAGES)?;
            match decide(probe_drivers(), || Installer::None) {
                Action::Nothing { because } => {
                    println!("setup: done, {because}");
                    Ok(())
                }
                _ => Err(format!(
                    "the packages are installed, but there is still no Vulkan loader with a usable driver: \
                     looked for libvulkan.so.1 and for lvp_icd*.json in {}",
                    MANIFEST_FOLDERS.join(", ")
                )),
            }
        }
    }
}

/// Makes sure that wgpu can find an OpenGL adapter, by installing Mesa's if it may.
pub fn gl(get: bool) -> Result<(), String> {
    let missing =
        || format!("no libEGL.so.1 with a driver; install {} (Debian, Ubuntu) or Mesa", GL_PACKAGES.join(" "));
    if gl_exists() {
        return Ok(());
    }
    let sudo = match probe_installer() {
        Installer::AptAsRoot => false,
        Installer::AptWithSudo => true,
        Installer::None => return Err(missing()),
    };
    if get && install(sudo, &GL_PACKAGES).is_ok() && gl_exists() { Ok(()) } else { Err(missing()) }
}

/// Makes sure that the feature `mpi` can be built and run, by installing Open MPI if it may.
pub fn mpi(get: bool) -> Result<(), String> {
    let missing =
        || format!("no Open MPI with headers and libclang; install {} (Debian, Ubuntu)", MPI_PACKAGES.join(" "));
    if mpi_exists() {
        return Ok(());
    }
    let sudo = match probe_installer() {
        Installer::AptAsRoot => false,
        Installer::AptWithSudo => true,
        Installer::None => return Err(missing()),
    };
    if get && install(sudo, &MPI_PACKAGES).is_ok() && mpi_exists() { Ok(()) } else { Err(missing()) }
}

/// The starter, the compiler wrapper by which the bindings find the library, and libclang, wherever a distribution puts it.
fn mpi_exists() -> bool {
    let is_open_mpi = output("mpirun", &["--version"]).is_some_and(|text| text.contains("Open MPI"));
    let libclang = || {
        let llvm = file_names(Path::new("/usr/lib")).into_iter().filter(|name| name.starts_with("llvm"));
        let folders = llvm.map(|name| Path::new("/usr/lib").join(name).join("lib")).chain(library_folders());
        env::var_os("LIBCLANG_PATH").is_some()
            || folders.into_iter().any(|folder| {
                file_names(&folder).iter().any(|name| {
                    name.starts_with("libclang.so") || (name.starts_with("libclang-") && name.contains(".so"))
                })
            })
    };
    is_open_mpi && output("mpicc", &["-show"]).is_some() && libclang()
}

/// Whether network namespaces can be made here, to stand for hosts.
pub fn namespaces() -> Result<(), String> {
    let name = format!("wgpu-batch-norm-{}", std::process::id());
    if output("ip", &["netns", "add", &name]).is_none() {
        return Err("network namespaces cannot be made; that takes root, CAP_SYS_ADMIN and iproute2".into());
    }
    // A bridge and pairs of devices are what the test needs besides. (`ip` takes short names for abbreviations of its words.)
    let bridge = format!("wbn{}", std::process::id() % 1_000_000);
    let linked = output("ip", &["link", "add", &bridge, "type", "bridge"]).is_some();
    let paired = output("ip", &["-n", &name, "link", "add", "wbn0", "type", "veth", "peer", "name", "wbn1"]).is_some();
    let entered = output("ip", &["netns", "exec", &name, "unshare", "--uts", "hostname", "probe"]).is_some();
    output("ip", &["link", "del", &bridge]);
    output("ip", &["netns", "del", &name]);
    if linked && paired && entered { Ok(()) } else { Err("no bridges or pairs of network devices here".into()) }
}

/// EGL, and behind it Mesa with a software driver or some vendor's driver.
fn gl_exists() -> bool {
    let mesa = || {
        library_folders().iter().any(|folder| {
            folder.join("dri/swrast_dri.so").exists()
                || file_names(folder).iter().any(|name| name.starts_with("libgallium"))
        })
    };
    let vendor = || file_names(Path::new("/usr/share/glvnd/egl_vendor.d")).iter().any(|name| !name.contains("mesa"));
    library_exists("libEGL.so.1") && (mesa() || vendor())
}

/// Decides what to do. The installer is asked for only where something is missing: looking for it may call `sudo`,
/// which is logged.
fn decide(drivers: Drivers, installer: impl FnOnce() -> Installer) -> Action {
    let driver = match (drivers.manifests, drivers.gpu) {
        (Manifests::Named { exist: true }, _) => {
            Some("the loader and the drivers that the environment names are there")
        }
        (Manifests::Named { exist: false }, _) => return Action::RefuseEnvironment,
        (Manifests::Installed(Installed::Software), _) => {
            Some("the Vulkan loader and Mesa's software driver are there")
        }
        (Manifests::Installed(Installed::Hardware), true) => Some("the Vulkan loader, a GPU and a driver are there"),
        (Manifests::Installed(Installed::Hardware | Installed::None), _) => None,
    };
    match (driver, drivers.loader) {
        (Some(because), true) => Action::Nothing { because },
        _ => match installer() {
            Installer::AptAsRoot => Action::Install { sudo: false },
            Installer::AptWithSudo => Action::Install { sudo: true },
            Installer::None => Action::Explain,
        },
    }
}

fn probe_drivers() -> Drivers {
    let variable = MANIFEST_VARIABLES.iter().find_map(|name| env::var_os(name).filter(|value| !value.is_empty()));
    let manifests = if let Some(paths) = variable {
        Manifests::Named { exist: env::split_paths(&paths).any(|path| names_a_manifest(&path)) }
    } else {
        let names: Vec<_> = MANIFEST_FOLDERS.iter().flat_map(|folder| file_names(Path::new(folder))).collect();
        Manifests::Installed(classify(&names))
    };
    Drivers { loader: library_exists("libvulkan.so.1"), manifests, gpu: has_gpu() }
}

/// Whether there is a device node of a GPU.
pub fn has_gpu() -> bool {
    Path::new("/dev/nvidia0").exists()
        || file_names(Path::new("/dev/dri")).iter().any(|name| name.starts_with("renderD"))
}

/// The loader takes files and folders of files.
fn names_a_manifest(path: &Path) -> bool {
    path.is_file() || file_names(path).iter().any(|name| is_manifest(name))
}

fn is_manifest(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "json")
}

/// Mesa names the manifest of its software driver `lvp_icd`, in most distributions with the architecture after it.
fn classify(names: &[String]) -> Installed {
    let mut manifests = names.iter().filter(|name| is_manifest(name)).peekable();
    if manifests.peek().is_none() {
        Installed::None
    } else if manifests.any(|name| name.starts_with("lvp_icd")) {
        Installed::Software
    } else {
        Installed::Hardware
    }
}

fn library_exists(library: &str) -> bool {
    // Only root has the folder of ldconfig on the path everywhere.
    let cached = ["ldconfig", "/sbin/ldconfig"]
        .iter()
        .find_map(|program| output(program, &["-p"]))
        .is_some_and(|libraries| libraries.contains(library));
    cached || library_folders().iter().any(|folder| folder.join(library).exists())
}

/// The usual folders and, as in Debian, the folders per architecture below them.
fn library_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from).into();
    if let Ok(entries) = fs::read_dir("/usr/lib") {
        folders.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    folders
}

fn file_names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn probe_installer() -> Installer {
    if output("apt-get", &["--version"]).is_none() {
        Installer::None
    } else if output("id", &["-u"]).is_some_and(|user| user.trim() == "0") {
        Installer::AptAsRoot
    } else if output("sudo", &["-n", "true"]).is_some() {
        Installer::AptWithSudo
    } else {
        Installer::None
    }
}

/// The output of a program that ends well.
pub fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn install(sudo: bool, packages: &[&'static str]) -> Result<(), String> {
    let [update, install] = install_commands(sudo, packages);
    if !execute(&update) {
        // One broken package source of many makes this fail, and the packages may come from another one.
        eprintln!("setup: the package lists could not all be refreshed, trying to install nevertheless");
    }
    if execute(&install) {
        Ok(())
    } else {
        Err(format!(
            "'{}' failed, its own message is above. If it could not download the packages, \
             check the network connection and run this again.\n{BY_HAND}",
            install.join(" ")
        ))
    }
}

/// The refresh of the package lists, without which a fresh container knows no package, and the installation.
fn install_commands(sudo: bool, packages: &[&'static str]) -> [Vec<&'static str>; 2] {
    // `env` sets the variable on both sides of sudo, which passes none on.
    let mut prefix = if sudo { vec!["sudo", "-n"] } else { Vec::new() };
    prefix.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    let update = [prefix.as_slice(), &["update"]].concat();
    let install = [prefix.as_slice(), &["install", "-y", "--no-install-recommends"], packages].concat();
    [update, install]
}

/// Prints a command, runs it and tells whether it ended well.
fn execute(command: &[&str]) -> bool {
    println!("setup: {}", command.join(" "));
    let [program, arguments @ ..] = command else { return false };
    match Command::new(program).args(arguments).stdin(Stdio::null()).status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("setup: {program} could not be started: {error}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drivers(loader: bool, installed: Installed, gpu: bool) -> Drivers {
        Drivers { loader, manifests: Manifests::Installed(installed), gpu }
    }

    fn unasked() -> Installer {
        panic!("the installer was looked for although nothing is missing")
    }

    fn is_nothing(action: &Action) -> bool {
        matches!(action, Action::Nothing { .. })
    }

    #[test]
    fn a_complete_machine_is_left_alone() {
        assert!(is_nothing(&decide(drivers(true, Installed::Software, false), unasked)));
        assert!(is_nothing(&decide(drivers(true, Installed::Software, true), unasked)));
        assert!(is_nothing(&decide(drivers(true, Installed::Hardware, true), unasked)));
    }

    #[test]
    fn gpu_drivers_without_a_gpu_are_not_enough() {
        let action = decide(drivers(true, Installed::Hardware, false), || Installer::AptAsRoot);
        assert_eq!(action, Action::Install { sudo: false });
    }

    #[test]
    fn a_gpu_without_a_driver_is_not_enough() {
        let action = decide(drivers(true, Installed::None, true), || Installer::AptAsRoot);
        assert_eq!(action, Action::Install { sudo: false });
    }

    #[test]
    fn a_driver_without_the_loader_is_not_enough() {
        for installed in [Installed::Software, Installed::Hardware] {
            let action = decide(drivers(false, installed, true), || Installer::AptWithSudo);
            assert_eq!(action, Action::Install { sudo: true });
        }
    }

    #[test]
    fn without_an_installer_the_user_is_told() {
        let action = decide(drivers(false, Installed::None, false), || Installer::None);
        assert_eq!(action, Action::Explain);
    }

    #[test]
    fn drivers_named_by_the_environment_count_alone() {
        let named = |loader, exist| Drivers { loader, manifests: Manifests::Named { exist }, gpu: false };
        assert!(is_nothing(&decide(named(true, true), unasked)));
        assert_eq!(decide(named(true, false), unasked), Action::RefuseEnvironment);
        assert_eq!(decide(named(false, true), || Installer::AptAsRoot), Action::Install { sudo: false });
    }

    #[test]
    fn manifests_are_told_apart_by_name() {
        let classified = |names: &[&str]| classify(&names.iter().map(|&name| name.into()).collect::<Vec<_>>());
        assert_eq!(classified(&[]), Installed::None);
        assert_eq!(classified(&["lvp_icd.x86_64.json.dpkg-new", "README"]), Installed::None);
        assert_eq!(classified(&["nvidia_icd.json"]), Installed::Hardware);
        assert_eq!(classified(&["intel_icd.x86_64.json", "radeon_icd.x86_64.json"]), Installed::Hardware);
        assert_eq!(classified(&["intel_icd.x86_64.json", "lvp_icd.x86_64.json"]), Installed::Software);
        assert_eq!(classified(&["lvp_icd.json"]), Installed::Software);
    }

    #[test]
    fn the_commands_ask_nothing() {
        let [update, install] = install_commands(false, &PACKAGES);
        assert_eq!(update.join(" "), "env DEBIAN_FRONTEND=noninteractive apt-get update");
        assert_eq!(
            install.join(" "),
            "env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
             mesa-vulkan-drivers libvulkan1"
        );
        let [update, install] = install_commands(true, &PACKAGES);
        assert!(update.join(" ").starts_with("sudo -n env DEBIAN_FRONTEND=noninteractive apt-get update"));
        assert!(install.join(" ").starts_with("sudo -n env DEBIAN_FRONTEND=noninteractive apt-get install -y "));
    }
}
