"""The `policy.*` part of the flag table, policy by policy."""

from __future__ import annotations

from pi0q.jobs.flag import COUNT, PAIR, PIXELS, POLICIES, RATE, UNIT, WORDS, Policies, both, new
from pi0q.jobs.kinds import Bool, Choice, Float, Int, Many, Names, Repo, Text

_PI: Policies = frozenset({"pi0", "pi05", "pi0_fast"})
_FLOW: Policies = frozenset({"pi0", "pi05"})
_VLA: Policies = _PI | {"smolvla"}
_SMOL: Policies = frozenset({"smolvla"})
_FAST: Policies = frozenset({"pi0_fast"})
_ACT: Policies = frozenset({"act"})
_DIFF: Policies = frozenset({"diffusion"})
_RESNET: Policies = _ACT | _DIFF

_GEMMA = Choice("gemma_2b", "gemma_300m")
_MODES = Names(Choice("MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10", "IDENTITY"))

_POLICY = (
    both("policy.type", Choice(*POLICIES), "What to train."),
    both(
        "policy.path",
        Repo(path=True),
        "A policy to go on from, its type and settings included; instead of `type`.",
    ),
    both("policy.pretrained_path", Repo(path=True, nullable=True), "Weights to start from, like lerobot/pi0."),
    new(
        "policy.pretrained_revision",
        Text(limit=100),
        "Branch, tag or commit of those weights; pinned if left out.",
    ),
    both("policy.device", Choice("cuda", "cpu"), "Where to train. pi0q chooses which GPU."),
    both("policy.use_amp", Bool(), "Automatic mixed precision."),
    both("policy.use_peft", Bool(), "The weights to start from are a PEFT adapter."),
    both(
        "policy.push_to_hub",
        Bool(),
        "Push the trained policy to policy.repo_id at the end; true if left out and that is given.",
    ),
    both("policy.repo_id", Repo(nullable=True), "Repository to push to."),
    both("policy.private", Bool(nullable=True), "Make that repository private."),
    both("policy.tags", Many(Text(limit=100), nullable=True), "Tags of the model card."),
    both("policy.license", Text(limit=100, nullable=True), "License of the model card."),
    both("policy.n_obs_steps", Int(low=1, high=100), "Observations a prediction sees."),
    both("policy.n_action_steps", Int(low=1, high=10_000), "Actions carried out of each predicted chunk."),
    both("policy.chunk_size", Int(low=1, high=10_000), "Actions predicted at once.", _VLA | _ACT),
    both(
        "policy.normalization_mapping",
        _MODES,
        "How each kind of feature is normalised: {ACTION: MEAN_STD, …}.",
    ),
    both("policy.optimizer_lr", RATE, "Peak learning rate."),
    both("policy.optimizer_weight_decay", RATE, "Weight decay."),
    both("policy.optimizer_betas", PAIR, "Adam's two betas.", _VLA | _DIFF),
    both("policy.optimizer_eps", UNIT, "Adam's epsilon.", _VLA | _DIFF),
    both("policy.optimizer_grad_clip_norm", Float(high=1e6), "Gradients longer than this are shortened.", _VLA),
    both("policy.scheduler_warmup_steps", Int(), "Steps in which the learning rate rises.", _VLA | _DIFF),
    both("policy.scheduler_decay_steps", COUNT, "Steps in which it falls again.", _VLA),
    both("policy.scheduler_decay_lr", RATE, "Where it ends.", _VLA),
    both("policy.scheduler_name", Text(limit=60), "Scheduler of the diffusers library.", _DIFF),
)
_VLAS = (
    both(
        "policy.dtype",
        Choice("float32", "bfloat16"),
        "Number format; float32 if left out, twice the memory.",
        _PI,
    ),
    new(
        "policy.gradient_checkpointing",
        Bool(),
        "Compute activations twice to keep fewer.",
        of=_PI | _DIFF,
        before=_PI,
    ),
    both("policy.compile_model", Bool(), "torch.compile: faster steps, 10-30 minutes to start.", _VLA | _DIFF),
    both(
        "policy.compile_mode",
        Choice("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
        "How hard torch.compile tries.",
        _VLA | _DIFF,
    ),
    both("policy.freeze_vision_encoder", Bool(), "Leave the vision encoder as it is.", _FLOW | _SMOL),
    both("policy.train_expert_only", Bool(), "Train the action expert, leave the rest.", _FLOW | _SMOL),
    both("policy.paligemma_variant", _GEMMA, "Size of the language model.", _PI),
    both("policy.action_expert_variant", _GEMMA, "Size of the action expert.", _PI),
    both("policy.max_state_dim", Int(low=1, high=1024), "Width that states are padded to.", _VLA),
    both("policy.max_action_dim", Int(low=1, high=1024), "Width that actions are padded to.", _VLA),
    both("policy.tokenizer_max_length", Int(low=1, high=4096), "Most tokens of the task's text.", _VLA),
    both("policy.empty_cameras", Int(low=0, high=8), "Blank cameras to add.", _VLA),
    both("policy.image_resolution", PIXELS, "Height and width that images are brought to.", _PI),
    both(
        "policy.num_inference_steps",
        Int(low=1, high=1000, nullable=True),
        "Denoising steps in use.",
        _FLOW | _DIFF,
    ),
    both("policy.time_sampling_beta_alpha", Float(high=100), "Shape of the sampled times.", _FLOW),
    both("policy.time_sampling_beta_beta", Float(high=100), "Shape of the sampled times.", _FLOW),
    both("policy.time_sampling_scale", UNIT, "Range of the sampled times.", _FLOW),
    both("policy.time_sampling_offset", UNIT, "Start of the sampled times.", _FLOW),
    both("policy.min_period", Float(high=1e4), "Shortest period of the time embedding.", _FLOW | _SMOL),
    both("policy.max_period", Float(high=1e4), "Longest period of the time embedding.", _FLOW | _SMOL),
    new("policy.use_relative_actions", Bool(), "Predict actions relative to the state.", _PI),
    new("policy.relative_exclude_joints", WORDS, "Joints whose actions stay absolute.", _PI),
    both("policy.max_action_tokens", Int(low=1, high=4096), "Most tokens of an action chunk.", _FAST),
    both("policy.use_kv_cache", Bool(), "Cache keys and values in use.", _FAST),
    both("policy.resize_imgs_with_padding", PIXELS, "Height and width that images are padded to.", _SMOL),
    both("policy.num_steps", Int(low=1, high=1000), "Denoising steps in use.", _SMOL),
    both("policy.use_cache", Bool(), "Cache keys and values in use.", _SMOL),
    both("policy.train_state_proj", Bool(), "Train the layer that reads the state.", _SMOL),
    both("policy.vlm_model_name", Repo(), "The vision-language model underneath.", _SMOL),
    both("policy.load_vlm_weights", Bool(), "Start from that model's own weights.", _SMOL),
    both("policy.attention_mode", Choice("cross_attn", "self_attn"), "How the expert attends.", _SMOL),
    both(
        "policy.num_expert_layers",
        Int(low=-1, high=200),
        "Layers of the expert; -1: as many as the model.",
        _SMOL,
    ),
    both("policy.num_vlm_layers", Int(low=-1, high=200), "Layers kept of the vision-language model.", _SMOL),
    both(
        "policy.self_attn_every_n_layers",
        Int(low=-1, high=200),
        "How often the expert attends to itself.",
        _SMOL,
    ),
    both(
        "policy.expert_width_multiplier",
        Float(high=10),
        "Width of the expert, as a share of the model's.",
        _SMOL,
    ),
    both("policy.adapt_to_pi_aloha", Bool(), "Aloha: convert joints to the pi convention.", _SMOL),
)
_SMALL = (
    both("policy.vision_backbone", Choice("resnet18", "resnet34", "resnet50"), "Vision network.", _RESNET),
    both(
        "policy.pretrained_backbone_weights",
        Text(limit=100, nullable=True),
        "Its weights; null: new.",
        _RESNET,
    ),
    both("policy.replace_final_stride_with_dilation", Bool(), "ResNet's last stage keeps its resolution.", _ACT),
    both("policy.pre_norm", Bool(), "Normalise before each block.", _ACT),
    both("policy.dim_model", Int(low=8, high=65_536), "Width of the transformer.", _ACT),
    both("policy.n_heads", Int(low=1, high=1024), "Attention heads.", _ACT),
    both("policy.dim_feedforward", Int(low=1, high=1_000_000), "Width of its feed-forward layers.", _ACT),
    both("policy.feedforward_activation", Choice("relu", "gelu", "glu"), "Their activation.", _ACT),
    both("policy.n_encoder_layers", Int(low=1, high=1000), "Encoder layers.", _ACT),
    both("policy.n_decoder_layers", Int(low=1, high=1000), "Decoder layers.", _ACT),
    both("policy.use_vae", Bool(), "Train with a variational objective.", _ACT),
    both("policy.latent_dim", Int(low=1, high=65_536), "Width of its latent.", _ACT),
    both("policy.n_vae_encoder_layers", Int(low=1, high=1000), "Layers of its encoder.", _ACT),
    both(
        "policy.temporal_ensemble_coeff",
        Float(high=100, nullable=True),
        "Blend overlapping chunks in use.",
        _ACT,
    ),
    both("policy.dropout", UNIT, "Share of activations dropped.", _ACT),
    both("policy.kl_weight", Float(high=1e6), "Weight of the variational term.", _ACT),
    both("policy.optimizer_lr_backbone", RATE, "Learning rate of the vision network.", _ACT),
    both("policy.horizon", Int(low=1, high=10_000), "Actions predicted at once.", _DIFF),
    both("policy.drop_n_last_frames", Int(high=10_000), "Frames left out at an episode's end.", _DIFF),
    both("policy.resize_shape", Many(COUNT, size=2, nullable=True), "Height, width after resizing.", _DIFF),
    both("policy.crop_ratio", UNIT, "Share of an image kept by the crop.", _DIFF),
    both("policy.crop_shape", Many(COUNT, size=2, nullable=True), "Height and width of the crop.", _DIFF),
    both("policy.crop_is_random", Bool(), "Crop at random places in training.", _DIFF),
    both("policy.use_group_norm", Bool(), "Group normalisation in the vision network.", _DIFF),
    both(
        "policy.spatial_softmax_num_keypoints",
        Int(low=1, high=10_000),
        "Keypoints of the vision network.",
        _DIFF,
    ),
    both("policy.use_separate_rgb_encoder_per_camera", Bool(), "A vision network a camera.", _DIFF),
    both("policy.down_dims", Many(COUNT), "Widths of the U-Net.", _DIFF),
    both("policy.kernel_size", Int(low=1, high=99), "Kernel of the U-Net.", _DIFF),
    both("policy.n_groups", Int(low=1, high=4096), "Groups of its normalisation.", _DIFF),
    both("policy.diffusion_step_embed_dim", Int(low=1, high=65_536), "Width of the step embedding.", _DIFF),
    both("policy.use_film_scale_modulation", Bool(), "Scale as well as shift by the condition.", _DIFF),
    both("policy.noise_scheduler_type", Choice("DDPM", "DDIM"), "Noise scheduler.", _DIFF),
    both("policy.num_train_timesteps", Int(low=1, high=100_000), "Diffusion steps in training.", _DIFF),
    both("policy.beta_schedule", Text(limit=60), "Schedule of the noise.", _DIFF),
    both("policy.beta_start", UNIT, "First noise.", _DIFF),
    both("policy.beta_end", UNIT, "Last noise.", _DIFF),
    both("policy.prediction_type", Choice("epsilon", "sample"), "What the U-Net predicts.", _DIFF),
    both("policy.clip_sample", Bool(), "Clip samples in use.", _DIFF),
    both("policy.clip_sample_range", Float(high=1e6), "To this range.", _DIFF),
    both("policy.do_mask_loss_for_padding", Bool(), "Leave padded actions out of the loss.", _DIFF),
)

#: In the order of their groups: common to all, vision-language-action, the small ones.
POLICY_FLAGS = (*_POLICY, *_VLAS, *_SMALL)
