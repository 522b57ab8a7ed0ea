"""What pi0q says by hand of `policy.*` and `reward_model.*`: bounds, choices, repositories, one sentence each."""

from __future__ import annotations

from pi0q.jobs.schema.flag_types import COUNT, PAIR, PIXELS, RATE, UNIT, WORDS, Note
from pi0q.jobs.schema.value_types import Bool, Choice, Float, Int, ListOf, MapOf, Repo, Text

_PI = frozenset({"pi0", "pi05", "pi0_fast"})
_GEMMA = Choice("gemma_2b", "gemma_300m")
_MODES = MapOf(Choice("MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10", "IDENTITY"))

_POLICY = (
    Note(
        "policy.path",
        Repo(path=True, jobs=True),
        "A policy to go on from, its type and settings included; instead of `type`.",
    ),
    Note(
        "policy.pretrained_path",
        Repo(path=True, jobs=True, nullable=True),
        "Weights to start from, like lerobot/pi0, or job:NAME@STEP.",
    ),
    Note("policy.pretrained_revision", Text(limit=100), "Branch, tag or commit of those weights; pinned if left out."),
    Note("policy.device", Choice("cuda", "cpu"), "Where to train. pi0q chooses which GPU."),
    Note("policy.use_amp", Bool(), "Automatic mixed precision."),
    Note("policy.use_peft", Bool(), "The weights to start from are a PEFT adapter."),
    Note(
        "policy.push_to_hub",
        Bool(),
        "Push the trained policy to policy.repo_id at the end; true if left out and that is given.",
    ),
    Note("policy.repo_id", Repo(nullable=True), "Repository to push to."),
    Note("policy.private", Bool(nullable=True), "Make that repository private."),
    Note("policy.tags", ListOf(Text(limit=100), nullable=True), "Tags of the model card."),
    Note("policy.license", Text(limit=100, nullable=True), "License of the model card."),
    Note("policy.n_obs_steps", Int(low=1, high=100), "Observations a prediction sees."),
    Note("policy.n_action_steps", Int(low=1, high=10_000), "Actions carried out of each predicted chunk."),
    Note("policy.chunk_size", Int(low=1, high=10_000), "Actions predicted at once."),
    Note("policy.normalization_mapping", _MODES, "How each kind of feature is normalised: {ACTION: MEAN_STD, …}."),
    Note("policy.optimizer_lr", RATE, "Peak learning rate."),
    Note("policy.optimizer_weight_decay", RATE, "Weight decay."),
    Note("policy.optimizer_betas", PAIR, "Adam's two betas."),
    Note("policy.optimizer_eps", UNIT, "Adam's epsilon."),
    Note("policy.optimizer_grad_clip_norm", Float(high=1e6), "Gradients longer than this are shortened."),
    Note("policy.scheduler_warmup_steps", Int(), "Steps in which the learning rate rises."),
    Note("policy.scheduler_decay_steps", COUNT, "Steps in which it falls again."),
    Note("policy.scheduler_decay_lr", RATE, "Where it ends."),
    Note("policy.scheduler_name", Text(limit=60), "Scheduler of the diffusers library."),
)
_VLAS = (
    Note(
        "policy.dtype", Choice("float32", "bfloat16"), "Number format; float32 if left out, twice the memory.", only=_PI
    ),
    Note("policy.gradient_checkpointing", Bool(), "Compute activations twice to keep fewer."),
    Note("policy.compile_model", Bool(), "torch.compile: faster steps, 10-30 minutes to start."),
    Note(
        "policy.compile_mode",
        Choice("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
        "How hard torch.compile tries.",
    ),
    Note("policy.freeze_vision_encoder", Bool(), "Leave the vision encoder as it is."),
    Note("policy.train_expert_only", Bool(), "Train the action expert, leave the rest."),
    Note("policy.paligemma_variant", _GEMMA, "Size of the language model."),
    Note("policy.action_expert_variant", _GEMMA, "Size of the action expert."),
    Note("policy.max_state_dim", Int(low=1, high=1024), "Width that states are padded to."),
    Note("policy.max_action_dim", Int(low=1, high=1024), "Width that actions are padded to."),
    Note("policy.tokenizer_max_length", Int(low=1, high=4096), "Most tokens of the task's text."),
    Note("policy.empty_cameras", Int(low=0, high=8), "Blank cameras to add."),
    Note("policy.image_resolution", PIXELS, "Height and width that images are brought to."),
    Note("policy.num_inference_steps", Int(low=1, high=1000, nullable=True), "Denoising steps in use."),
    Note("policy.time_sampling_beta_alpha", Float(high=100), "Shape of the sampled times."),
    Note("policy.time_sampling_beta_beta", Float(high=100), "Shape of the sampled times."),
    Note("policy.time_sampling_scale", UNIT, "Range of the sampled times."),
    Note("policy.time_sampling_offset", UNIT, "Start of the sampled times."),
    Note("policy.min_period", Float(high=1e4), "Shortest period of the time embedding."),
    Note("policy.max_period", Float(high=1e4), "Longest period of the time embedding."),
    Note("policy.use_relative_actions", Bool(), "Predict actions relative to the state."),
    Note("policy.relative_exclude_joints", WORDS, "Joints whose actions stay absolute."),
    Note("policy.max_action_tokens", Int(low=1, high=4096), "Most tokens of an action chunk."),
    Note("policy.use_kv_cache", Bool(), "Cache keys and values in use."),
    Note("policy.resize_imgs_with_padding", PIXELS, "Height and width that images are padded to."),
    Note("policy.num_steps", Int(low=1, high=1000), "Denoising steps in use."),
    Note("policy.use_cache", Bool(), "Cache keys and values in use."),
    Note("policy.train_state_proj", Bool(), "Train the layer that reads the state."),
    Note("policy.vlm_model_name", Repo(), "The vision-language model underneath."),
    Note("policy.load_vlm_weights", Bool(), "Start from that model's own weights."),
    Note("policy.attention_mode", Choice("cross_attn", "self_attn"), "How the expert attends."),
    Note("policy.num_expert_layers", Int(low=-1, high=200), "Layers of the expert; -1: as many as the model."),
    Note("policy.num_vlm_layers", Int(low=-1, high=200), "Layers kept of the vision-language model."),
    Note("policy.self_attn_every_n_layers", Int(low=-1, high=200), "How often the expert attends to itself."),
    Note("policy.expert_width_multiplier", Float(high=10), "Width of the expert, as a share of the model's."),
    Note("policy.adapt_to_pi_aloha", Bool(), "Aloha: convert joints to the pi convention."),
)
_SMALL = (
    Note("policy.vision_backbone", Choice("resnet18", "resnet34", "resnet50"), "Vision network."),
    Note("policy.pretrained_backbone_weights", Text(limit=100, nullable=True), "Its weights; null: new."),
    Note("policy.replace_final_stride_with_dilation", Bool(), "ResNet's last stage keeps its resolution."),
    Note("policy.pre_norm", Bool(), "Normalise before each block."),
    Note("policy.dim_model", Int(low=8, high=65_536), "Width of the transformer."),
    Note("policy.n_heads", Int(low=1, high=1024), "Attention heads."),
    Note("policy.dim_feedforward", Int(low=1, high=1_000_000), "Width of its feed-forward layers."),
    Note("policy.feedforward_activation", Choice("relu", "gelu", "glu"), "Their activation."),
    Note("policy.n_encoder_layers", Int(low=1, high=1000), "Encoder layers."),
    Note("policy.n_decoder_layers", Int(low=1, high=1000), "Decoder layers."),
    Note("policy.use_vae", Bool(), "Train with a variational objective."),
    Note("policy.latent_dim", Int(low=1, high=65_536), "Width of its latent."),
    Note("policy.n_vae_encoder_layers", Int(low=1, high=1000), "Layers of its encoder."),
    Note("policy.temporal_ensemble_coeff", Float(high=100, nullable=True), "Blend overlapping chunks in use."),
    Note("policy.dropout", UNIT, "Share of activations dropped."),
    Note("policy.kl_weight", Float(high=1e6), "Weight of the variational term."),
    Note("policy.optimizer_lr_backbone", RATE, "Learning rate of the vision network."),
    Note("policy.horizon", Int(low=1, high=10_000), "Actions predicted at once."),
    Note("policy.drop_n_last_frames", Int(high=10_000), "Frames left out at an episode's end."),
    Note("policy.resize_shape", ListOf(COUNT, size=2, nullable=True), "Height, width after resizing."),
    Note("policy.crop_ratio", UNIT, "Share of an image kept by the crop."),
    Note("policy.crop_shape", ListOf(COUNT, size=2, nullable=True), "Height and width of the crop."),
    Note("policy.crop_is_random", Bool(), "Crop at random places in training."),
    Note("policy.use_group_norm", Bool(), "Group normalisation in the vision network."),
    Note("policy.spatial_softmax_num_keypoints", Int(low=1, high=10_000), "Keypoints of the vision network."),
    Note("policy.use_separate_rgb_encoder_per_camera", Bool(), "A vision network a camera."),
    Note("policy.down_dims", ListOf(COUNT), "Widths of the U-Net."),
    Note("policy.kernel_size", Int(low=1, high=99), "Kernel of the U-Net."),
    Note("policy.n_groups", Int(low=1, high=4096), "Groups of its normalisation."),
    Note("policy.diffusion_step_embed_dim", Int(low=1, high=65_536), "Width of the step embedding."),
    Note("policy.use_film_scale_modulation", Bool(), "Scale as well as shift by the condition."),
    Note("policy.noise_scheduler_type", Choice("DDPM", "DDIM"), "Noise scheduler."),
    Note("policy.num_train_timesteps", Int(low=1, high=100_000), "Diffusion steps in training."),
    Note("policy.beta_schedule", Text(limit=60), "Schedule of the noise."),
    Note("policy.beta_start", UNIT, "First noise."),
    Note("policy.beta_end", UNIT, "Last noise."),
    Note("policy.prediction_type", Choice("epsilon", "sample"), "What the U-Net predicts."),
    Note("policy.clip_sample", Bool(), "Clip samples in use."),
    Note("policy.clip_sample_range", Float(high=1e6), "To this range."),
    Note("policy.do_mask_loss_for_padding", Bool(), "Leave padded actions out of the loss."),
)
#: Flags that name a repository whose files LeRobot reads, and runs nothing of.
_REPOSITORIES = (
    Note("policy.vlm_base", Repo(), "eo1: the vision-language model underneath."),
    Note("policy.qwen_model_name", Repo(), "vla_jepa: the vision-language model underneath."),
    Note("policy.jepa_encoder_name", Repo(), "vla_jepa: the video encoder underneath."),
    Note("policy.vision_encoder_name", Repo(), "multi_task_dit: the CLIP model that sees."),
    Note("policy.text_encoder_name", Repo(), "multi_task_dit: the CLIP model that reads the task."),
    Note("policy.tokenizer_name", Repo(), "xvla: the tokenizer of the task's text."),
    Note("policy.checkpoint_path", Repo(), "molmoact2: the base to start from."),
    Note("policy.discrete_action_tokenizer", Repo(), "molmoact2: the tokenizer of actions."),
    Note("policy.base_model_id", Repo(nullable=True), "fastwam: the base to start from."),
    Note("policy.model_id", Repo(), "fastwam: the video model underneath."),
    Note("policy.text_encoder_model_id", Repo(), "fastwam: the text encoder underneath."),
    Note("policy.tokenizer_model_id", Repo(), "fastwam: its tokenizer."),
    Note("policy.wan_pretrained_path", Repo(), "lingbot_va: the base with its frozen parts."),
    Note("policy.pretrained_name_or_path", Repo(), "wall_x: the base to start from."),
    Note(
        "policy.base_model_path",
        Repo(nullable=True, owners=("nvidia",)),
        "groot: the base to start from, one of NVIDIA's: its config.json names the repository whose code LeRobot runs.",
    ),
)
_REWARD = (
    Note("reward_model.device", Choice("cuda", "cpu"), "Where to train. pi0q chooses which GPU."),
    Note("reward_model.pretrained_path", Repo(path=True, jobs=True, nullable=True), "Weights to start from."),
    Note("reward_model.pretrained_revision", Text(limit=100, nullable=True), "Branch, tag or commit of those weights."),
    Note("reward_model.repo_id", Repo(nullable=True), "Repository to push to."),
    Note(
        "reward_model.push_to_hub",
        Bool(),
        "Push the trained model to reward_model.repo_id at the end; true if left out and that is given.",
    ),
    Note(
        "reward_model.annotation_mode", Choice("single_stage", "dense_only", "dual"), "sarm: how stages are labelled."
    ),
)

#: Common to all, vision-language-action, the small ones, repositories, reward models.
POLICY_NOTES = (*_POLICY, *_VLAS, *_SMALL, *_REPOSITORIES, *_REWARD)
