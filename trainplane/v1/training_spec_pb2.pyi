from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrainingSpec(_message.Message):
    __slots__ = ("job_id", "base_model", "customization", "resources", "datasets", "artifacts", "tuning_parameters", "callbacks", "backend", "backend_options", "placement", "labels", "priority", "max_attempts", "export")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    CUSTOMIZATION_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    TUNING_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    CALLBACKS_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    BACKEND_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    base_model: BaseModel
    customization: Customization
    resources: Resources
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    artifacts: Artifacts
    tuning_parameters: TuningParameters
    callbacks: Callbacks
    backend: str
    backend_options: _struct_pb2.Struct
    placement: Placement
    labels: _containers.ScalarMap[str, str]
    priority: int
    max_attempts: int
    export: Export
    def __init__(self, job_id: _Optional[str] = ..., base_model: _Optional[_Union[BaseModel, _Mapping]] = ..., customization: _Optional[_Union[Customization, _Mapping]] = ..., resources: _Optional[_Union[Resources, _Mapping]] = ..., datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ..., artifacts: _Optional[_Union[Artifacts, _Mapping]] = ..., tuning_parameters: _Optional[_Union[TuningParameters, _Mapping]] = ..., callbacks: _Optional[_Union[Callbacks, _Mapping]] = ..., backend: _Optional[str] = ..., backend_options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., priority: _Optional[int] = ..., max_attempts: _Optional[int] = ..., export: _Optional[_Union[Export, _Mapping]] = ...) -> None: ...

class BaseModel(_message.Message):
    __slots__ = ("provider", "model_name", "revision", "auth_token", "weights_url")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_URL_FIELD_NUMBER: _ClassVar[int]
    provider: str
    model_name: str
    revision: str
    auth_token: str
    weights_url: str
    def __init__(self, provider: _Optional[str] = ..., model_name: _Optional[str] = ..., revision: _Optional[str] = ..., auth_token: _Optional[str] = ..., weights_url: _Optional[str] = ...) -> None: ...

class Customization(_message.Message):
    __slots__ = ("method", "rank", "lora_alpha", "lora_dropout", "target_modules", "trainable_layers", "precision", "qlora", "peft")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    LORA_ALPHA_FIELD_NUMBER: _ClassVar[int]
    LORA_DROPOUT_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODULES_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_LAYERS_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    QLORA_FIELD_NUMBER: _ClassVar[int]
    PEFT_FIELD_NUMBER: _ClassVar[int]
    method: str
    rank: int
    lora_alpha: float
    lora_dropout: float
    target_modules: _containers.RepeatedScalarFieldContainer[str]
    trainable_layers: _containers.RepeatedScalarFieldContainer[str]
    precision: str
    qlora: Qlora
    peft: Peft
    def __init__(self, method: _Optional[str] = ..., rank: _Optional[int] = ..., lora_alpha: _Optional[float] = ..., lora_dropout: _Optional[float] = ..., target_modules: _Optional[_Iterable[str]] = ..., trainable_layers: _Optional[_Iterable[str]] = ..., precision: _Optional[str] = ..., qlora: _Optional[_Union[Qlora, _Mapping]] = ..., peft: _Optional[_Union[Peft, _Mapping]] = ...) -> None: ...

class Qlora(_message.Message):
    __slots__ = ("use_double_quant", "bnb_4bit_compute_dtype", "bnb_4bit_quant_type")
    USE_DOUBLE_QUANT_FIELD_NUMBER: _ClassVar[int]
    BNB_4BIT_COMPUTE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    BNB_4BIT_QUANT_TYPE_FIELD_NUMBER: _ClassVar[int]
    use_double_quant: bool
    bnb_4bit_compute_dtype: str
    bnb_4bit_quant_type: str
    def __init__(self, use_double_quant: _Optional[bool] = ..., bnb_4bit_compute_dtype: _Optional[str] = ..., bnb_4bit_quant_type: _Optional[str] = ...) -> None: ...

class Peft(_message.Message):
    __slots__ = ("use", "config")
    USE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    use: bool
    config: _struct_pb2.Struct
    def __init__(self, use: _Optional[bool] = ..., config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Resources(_message.Message):
    __slots__ = ("gpus", "gpu_type", "cpus", "memory_gb", "max_duration_minutes")
    GPUS_FIELD_NUMBER: _ClassVar[int]
    GPU_TYPE_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_GB_FIELD_NUMBER: _ClassVar[int]
    MAX_DURATION_MINUTES_FIELD_NUMBER: _ClassVar[int]
    gpus: int
    gpu_type: str
    cpus: int
    memory_gb: float
    max_duration_minutes: float
    def __init__(self, gpus: _Optional[int] = ..., gpu_type: _Optional[str] = ..., cpus: _Optional[int] = ..., memory_gb: _Optional[float] = ..., max_duration_minutes: _Optional[float] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("source", "format", "auth", "split", "columns", "weight")
    class ColumnsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    source: str
    format: str
    auth: StorageAuth
    split: str
    columns: _containers.ScalarMap[str, str]
    weight: float
    def __init__(self, source: _Optional[str] = ..., format: _Optional[str] = ..., auth: _Optional[_Union[StorageAuth, _Mapping]] = ..., split: _Optional[str] = ..., columns: _Optional[_Mapping[str, str]] = ..., weight: _Optional[float] = ...) -> None: ...

class StorageAuth(_message.Message):
    __slots__ = ("role_arn",)
    ROLE_ARN_FIELD_NUMBER: _ClassVar[int]
    role_arn: str
    def __init__(self, role_arn: _Optional[str] = ...) -> None: ...

class Artifacts(_message.Message):
    __slots__ = ("log_uri", "status_stream_url", "output_uri", "auth", "overwrite")
    LOG_URI_FIELD_NUMBER: _ClassVar[int]
    STATUS_STREAM_URL_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_URI_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    log_uri: str
    status_stream_url: str
    output_uri: str
    auth: StorageAuth
    overwrite: bool
    def __init__(self, log_uri: _Optional[str] = ..., status_stream_url: _Optional[str] = ..., output_uri: _Optional[str] = ..., auth: _Optional[_Union[StorageAuth, _Mapping]] = ..., overwrite: _Optional[bool] = ...) -> None: ...

class TuningParameters(_message.Message):
    __slots__ = ("learning_rate", "batch_size", "num_epochs", "warmup_ratio", "gradient_checkpointing", "max_sequence_length", "max_steps", "seed", "weight_decay", "lr_scheduler", "optimizer", "max_grad_norm", "packing", "eval_fraction", "checkpoint_steps", "checkpoint_limit", "neftune_noise_alpha", "chat_template", "sharding", "truncation")
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    WARMUP_RATIO_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_CHECKPOINTING_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    LR_SCHEDULER_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    MAX_GRAD_NORM_FIELD_NUMBER: _ClassVar[int]
    PACKING_FIELD_NUMBER: _ClassVar[int]
    EVAL_FRACTION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_STEPS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_LIMIT_FIELD_NUMBER: _ClassVar[int]
    NEFTUNE_NOISE_ALPHA_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    SHARDING_FIELD_NUMBER: _ClassVar[int]
    TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    learning_rate: float
    batch_size: int
    num_epochs: float
    warmup_ratio: float
    gradient_checkpointing: bool
    max_sequence_length: int
    max_steps: int
    seed: int
    weight_decay: float
    lr_scheduler: str
    optimizer: str
    max_grad_norm: float
    packing: bool
    eval_fraction: float
    checkpoint_steps: int
    checkpoint_limit: int
    neftune_noise_alpha: float
    chat_template: str
    sharding: str
    truncation: str
    def __init__(self, learning_rate: _Optional[float] = ..., batch_size: _Optional[int] = ..., num_epochs: _Optional[float] = ..., warmup_ratio: _Optional[float] = ..., gradient_checkpointing: _Optional[bool] = ..., max_sequence_length: _Optional[int] = ..., max_steps: _Optional[int] = ..., seed: _Optional[int] = ..., weight_decay: _Optional[float] = ..., lr_scheduler: _Optional[str] = ..., optimizer: _Optional[str] = ..., max_grad_norm: _Optional[float] = ..., packing: _Optional[bool] = ..., eval_fraction: _Optional[float] = ..., checkpoint_steps: _Optional[int] = ..., checkpoint_limit: _Optional[int] = ..., neftune_noise_alpha: _Optional[float] = ..., chat_template: _Optional[str] = ..., sharding: _Optional[str] = ..., truncation: _Optional[str] = ...) -> None: ...

class Callbacks(_message.Message):
    __slots__ = ("webhook_url", "auth_header", "events")
    WEBHOOK_URL_FIELD_NUMBER: _ClassVar[int]
    AUTH_HEADER_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    webhook_url: str
    auth_header: str
    events: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, webhook_url: _Optional[str] = ..., auth_header: _Optional[str] = ..., events: _Optional[_Iterable[str]] = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("runner", "node", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RUNNER_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    runner: str
    node: str
    labels: _containers.ScalarMap[str, str]
    def __init__(self, runner: _Optional[str] = ..., node: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Export(_message.Message):
    __slots__ = ("merged", "gguf", "push_to_hub", "gguf_type")
    MERGED_FIELD_NUMBER: _ClassVar[int]
    GGUF_FIELD_NUMBER: _ClassVar[int]
    PUSH_TO_HUB_FIELD_NUMBER: _ClassVar[int]
    GGUF_TYPE_FIELD_NUMBER: _ClassVar[int]
    merged: bool
    gguf: bool
    push_to_hub: str
    gguf_type: str
    def __init__(self, merged: _Optional[bool] = ..., gguf: _Optional[bool] = ..., push_to_hub: _Optional[str] = ..., gguf_type: _Optional[str] = ...) -> None: ...
