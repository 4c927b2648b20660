//! GPUs of this machine: what is on the PCI bus, and what NVIDIA's driver says of it.
//!
//! A device counts only if the driver shows it and its device node is there: what cannot be used is not told. All paths
//! are below a root, so that a test can make a machine out of files.

use std::fs;
use std::path::Path;

use model::placement::Gpu;

/// NVIDIA's vendor number.
const NVIDIA: &str = "0x10de";

/// PCI classes of display and 3D controllers begin so.
const DISPLAY: &str = "0x03";

/// Device nodes every user of a GPU needs beside the GPU's own, as far as they are there.
const SHARED_NODES: [&str; 3] = ["dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-uvm-tools"];

/// GPUs below a root, by number.
pub(crate) fn gpus(root: &Path) -> Vec<Gpu> {
    let Ok(entries) = fs::read_dir(root.join("sys/bus/pci/devices")) else {
        return Vec::new();
    };
    let addresses = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut gpus: Vec<Gpu> = addresses.filter_map(|bus| gpu(root, &bus)).collect();
    gpus.sort_by_key(|gpu| gpu.index);
    gpus
}

fn gpu(root: &Path, bus: &str) -> Option<Gpu> {
    let device = root.join("sys/bus/pci/devices").join(bus);
    let attribute = |name: &str| -> Option<String> {
        let text = fs::read_to_string(device.join(name)).ok()?;
        Some(text.trim().to_owned())
    };
    if attribute("vendor")? != NVIDIA || !attribute("class")?.starts_with(DISPLAY) {
        return None;
    }
    let driver = root.join("proc/driver/nvidia/gpus").join(bus);
    let said = fs::read_to_string(driver.join("information")).ok()?;
    let field = |name: &str| -> Option<String> {
        let line = said.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.strip_prefix(':')?.trim().to_owned())
    };
    let index: u32 = field("Device Minor")?.parse().ok()?;
    let own = format!("dev/nvidia{index}");
    if !root.join(&own).exists() {
        tracing::warn!(bus, "a GPU has no device node /{own}: it is not offered");
        return None;
    }
    let shared = SHARED_NODES
        .into_iter()
        .filter(|node| root.join(node).exists());
    let model = field("Model").filter(|model| !model.is_empty());
    let numbers = || {
        let number = |name| attribute(name).map(|it| it.trim_start_matches("0x").to_owned());
        Some(format!("{}:{}", number("vendor")?, number("device")?))
    };
    Some(Gpu {
        index,
        uuid: field("GPU UUID")?,
        model: model.or_else(numbers).unwrap_or_default(),
        bus: bus.to_owned(),
        nodes: std::iter::once(own.as_str())
            .chain(shared)
            .map(|node| format!("/{node}"))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn pci(root: &Path, bus: &str, vendor: &str, class: &str) {
        let device = format!("sys/bus/pci/devices/{bus}");
        put(root, &format!("{device}/vendor"), &format!("{vendor}\n"));
        put(root, &format!("{device}/device"), "0x20b0\n");
        put(root, &format!("{device}/class"), &format!("{class}\n"));
    }

    fn driver(root: &Path, bus: &str, minor: u32, model: &str) {
        let text = format!(
            "Model: \t\t {model}\nIRQ:   \t\t 70\nGPU UUID: \t GPU-{minor}\nVideo BIOS: \t 92.00\nBus Type: \t PCIe\n\
             Device Minor: \t {minor}\n"
        );
        let path = format!("proc/driver/nvidia/gpus/{bus}/information");
        put(root, &path, &text);
    }

    #[test]
    fn a_machine_without_any_has_none() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(gpus(root.path()), []);
        pci(root.path(), "0000:00:02.0", "0x8086", "0x030000");
        assert_eq!(gpus(root.path()), []);
    }

    #[test]
    fn what_driver_and_device_nodes_show_is_told_in_order() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for (bus, minor, model) in [
            ("0000:5e:00.0", 1, "NVIDIA A100-SXM4-40GB"),
            ("0000:3b:00.0", 0, ""),
        ] {
            pci(root, bus, "0x10de", "0x030200");
            driver(root, bus, minor, model);
            put(root, &format!("dev/nvidia{minor}"), "");
        }
        put(root, "dev/nvidiactl", "");
        let found = gpus(root);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0],
            Gpu {
                index: 0,
                uuid: "GPU-0".into(),
                model: "10de:20b0".into(),
                bus: "0000:3b:00.0".into(),
                nodes: vec!["/dev/nvidia0".into(), "/dev/nvidiactl".into()],
            }
        );
        assert_eq!(found[1].model, "NVIDIA A100-SXM4-40GB");
    }

    #[test]
    fn what_cannot_be_used_is_not_told() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        // Without a driver; with a driver and without a node; the sound of a GPU.
        pci(root, "0000:01:00.0", "0x10de", "0x030000");
        pci(root, "0000:02:00.0", "0x10de", "0x030000");
        driver(root, "0000:02:00.0", 0, "NVIDIA T4");
        pci(root, "0000:02:00.1", "0x10de", "0x040300");
        assert_eq!(gpus(root), []);
    }
}
