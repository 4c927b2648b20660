//! Objects to store.

use model::object::Setting;
use model::{
    DesiredState, HostId, Key, Name, Object, Pool, PoolId, TaskSpec, Timestamp, Workload,
    WorkloadId, WorkloadSpec,
};

/// Bytes that make an id out of a number.
pub(crate) fn id_bytes(number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(crate) fn pool_id(number: u64) -> PoolId {
    PoolId::from_bytes(&id_bytes(number))
}

pub(crate) fn workload_id(number: u64) -> WorkloadId {
    WorkloadId::from_bytes(&id_bytes(number))
}

pub(crate) fn host_id(number: u64) -> HostId {
    HostId::from_bytes(&id_bytes(number))
}

pub(crate) fn pool(number: u64, called: &str) -> Object {
    Object::Pool(Pool {
        id: pool_id(number),
        name: name(called),
        parent: None,
        description: String::new(),
        labels: Default::default(),
        policy: Default::default(),
        slice: Default::default(),
        created_at: Timestamp(0),
    })
}

pub(crate) fn setting(called: &str, value: impl Into<String>) -> Object {
    Object::Setting(Setting {
        name: name(called),
        value: value.into(),
    })
}

pub(crate) fn setting_key(called: &str) -> Key {
    Key::Setting(name(called))
}

pub(crate) fn setting_value(object: &Object) -> &str {
    match object {
        Object::Setting(it) => &it.value,
        other => panic!("not a setting: {other:?}"),
    }
}

pub(crate) fn workload(number: u64, in_pool: u64, called: &str, on: Option<u64>) -> Workload {
    let task =
        serde_json::json!({ "image": "web:1", "image_id": format!("sha256:{}", "a".repeat(64)) });
    let task: TaskSpec = serde_json::from_value(task).unwrap();
    let spec = serde_json::json!({ "task": task });
    let spec: WorkloadSpec = serde_json::from_value(spec).unwrap();
    Workload {
        id: workload_id(number),
        pool: pool_id(in_pool),
        name: name(called),
        spec,
        desired: DesiredState::Created,
        run: 0,
        host: on.map(host_id),
        placement: None,
        gpus: Vec::new(),
        endpoints: Vec::new(),
        hold: None,
        left: Default::default(),
        displaced: Default::default(),
        status: Default::default(),
        created_at: Timestamp(0),
    }
}
