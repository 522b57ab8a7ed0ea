"""What LeRobot itself can build from a JSON file, by version. Generated: ops/dev/lerobot_names_main.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names of one line of LeRobot versions."""

    #: `registry_name` of each processor step.
    steps: frozenset[str]
    #: `class` of each processor step, as LeRobot writes it: the module that defines it, and its name.
    classes: frozenset[str]
    #: Those of both that load code from the repository which their config names.
    code_steps: frozenset[str]
    #: `type` of each policy.
    policies: frozenset[str]
    #: Those that load code from a repository.
    code_policies: frozenset[str]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: By line: "0.6" speaks for 0.6.0, 0.6.1, …
NAMES: dict[str, Names] = {
    # read from lerobot 0.4.4
    "0.4": Names(
        steps=_names("""
            action_tokenizer_processor add_teleop_action_as_complementary_data add_teleop_action_as_info
            current_processor device_processor ee_bounds_and_safety ee_reference_and_delta
            forward_kinematics_joints_to_ee forward_kinematics_joints_to_ee_action
            forward_kinematics_joints_to_ee_observation gripper_penalty_processor gripper_velocity_to_joint
            groot_action_unpack_unnormalize_v1 groot_eagle_collate_v3 groot_eagle_encode_v3 groot_pack_inputs_v3
            gym_hil_adapter_processor image_crop_resize_processor intervention_action_processor
            inverse_kinematics_ee_to_joints inverse_kinematics_rl_step isaaclab_arena_processor
            joint_velocity_processor libero_processor map_delta_action_to_robot_action
            map_phone_action_to_robot_action map_tensor_to_delta_action_dict normalizer_processor
            numpy2torch_action_processor observation_processor pi05_prepare_state_tokenizer_processor_step
            pi0_fast_prepare_state_tokenizer_processor_step pi0_new_line_processor
            policy_action_to_robot_action_processor rename_observations_processor reward_classifier_processor
            robot_action_to_policy_action_processor smolvla_new_line_processor time_limit_processor
            to_batch_processor to_batch_processor_action to_batch_processor_complementary_data
            to_batch_processor_observation tokenizer_processor torch2numpy_action_processor unnormalizer_processor
            wall_x_task_processor xvla_add_domain_id xvla_image_scale xvla_image_to_float xvla_imagenet_normalize
            xvla_rotation_6d_to_axis_angle
        """),
        classes=_names("""
            lerobot.policies.groot.processor_groot.GrootActionUnpackUnnormalizeStep
            lerobot.policies.groot.processor_groot.GrootEagleCollateStep
            lerobot.policies.groot.processor_groot.GrootEagleEncodeStep
            lerobot.policies.groot.processor_groot.GrootPackInputsStep
            lerobot.policies.pi0.processor_pi0.Pi0NewLineProcessor
            lerobot.policies.pi05.processor_pi05.Pi05PrepareStateTokenizerProcessorStep
            lerobot.policies.pi0_fast.processor_pi0_fast.Pi0FastPrepareStateAndLanguageTokenizerProcessorStep
            lerobot.policies.sarm.processor_sarm.SARMEncodingProcessorStep
            lerobot.policies.smolvla.processor_smolvla.SmolVLANewLineProcessor
            lerobot.policies.wall_x.processor_wall_x.WallXTaskProcessor
            lerobot.policies.xvla.processor_xvla.LiberoProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLAAddDomainIdProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLAImageNetNormalizeProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLAImageScaleProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLAImageToFloatProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLARotation6DToAxisAngleProcessorStep
            lerobot.processor.batch_processor.AddBatchDimensionActionStep
            lerobot.processor.batch_processor.AddBatchDimensionComplementaryDataStep
            lerobot.processor.batch_processor.AddBatchDimensionObservationStep
            lerobot.processor.batch_processor.AddBatchDimensionProcessorStep
            lerobot.processor.delta_action_processor.MapDeltaActionToRobotActionStep
            lerobot.processor.delta_action_processor.MapTensorToDeltaActionDictStep
            lerobot.processor.device_processor.DeviceProcessorStep
            lerobot.processor.env_processor.IsaaclabArenaProcessorStep
            lerobot.processor.env_processor.LiberoProcessorStep
            lerobot.processor.gym_action_processor.Numpy2TorchActionProcessorStep
            lerobot.processor.gym_action_processor.Torch2NumpyActionProcessorStep
            lerobot.processor.hil_processor.AddTeleopActionAsComplimentaryDataStep
            lerobot.processor.hil_processor.AddTeleopEventsAsInfoStep
            lerobot.processor.hil_processor.GripperPenaltyProcessorStep
            lerobot.processor.hil_processor.GymHILAdapterProcessorStep
            lerobot.processor.hil_processor.ImageCropResizeProcessorStep
            lerobot.processor.hil_processor.InterventionActionProcessorStep
            lerobot.processor.hil_processor.RewardClassifierProcessorStep
            lerobot.processor.hil_processor.TimeLimitProcessorStep
            lerobot.processor.normalize_processor.NormalizerProcessorStep
            lerobot.processor.normalize_processor.UnnormalizerProcessorStep
            lerobot.processor.observation_processor.VanillaObservationProcessorStep
            lerobot.processor.pipeline.IdentityProcessorStep
            lerobot.processor.policy_robot_bridge.PolicyActionToRobotActionProcessorStep
            lerobot.processor.policy_robot_bridge.RobotActionToPolicyActionProcessorStep
            lerobot.processor.rename_processor.RenameObservationsProcessorStep
            lerobot.processor.tokenizer_processor.ActionTokenizerProcessorStep
            lerobot.processor.tokenizer_processor.TokenizerProcessorStep
            lerobot.rl.joint_observations_processor.JointVelocityProcessorStep
            lerobot.rl.joint_observations_processor.MotorCurrentProcessorStep
            lerobot.robots.so_follower.robot_kinematic_processor.EEBoundsAndSafety
            lerobot.robots.so_follower.robot_kinematic_processor.EEReferenceAndDelta
            lerobot.robots.so_follower.robot_kinematic_processor.ForwardKinematicsJointsToEE
            lerobot.robots.so_follower.robot_kinematic_processor.ForwardKinematicsJointsToEEAction
            lerobot.robots.so_follower.robot_kinematic_processor.ForwardKinematicsJointsToEEObservation
            lerobot.robots.so_follower.robot_kinematic_processor.GripperVelocityToJoint
            lerobot.robots.so_follower.robot_kinematic_processor.InverseKinematicsEEToJoints
            lerobot.robots.so_follower.robot_kinematic_processor.InverseKinematicsRLStep
            lerobot.teleoperators.phone.phone_processor.MapPhoneActionToRobotAction
        """),
        code_steps=_names("""
            action_tokenizer_processor groot_eagle_collate_v3 groot_eagle_encode_v3
            lerobot.policies.groot.processor_groot.GrootEagleCollateStep
            lerobot.policies.groot.processor_groot.GrootEagleEncodeStep
            lerobot.processor.hil_processor.RewardClassifierProcessorStep
            lerobot.processor.tokenizer_processor.ActionTokenizerProcessorStep reward_classifier_processor
        """),
        policies=_names("""
            act diffusion groot pi0 pi05 pi0_fast reward_classifier sac sarm smolvla tdmpc vqbet wall_x xvla
        """),
        code_policies=_names("""
            groot pi0_fast reward_classifier sac wall_x
        """),
    ),
    # read from lerobot 0.5.1
    "0.5": Names(
        steps=_names("""
            absolute_actions_processor action_tokenizer_processor add_teleop_action_as_complementary_data
            add_teleop_action_as_info current_processor delta_actions_processor device_processor
            ee_bounds_and_safety ee_reference_and_delta forward_kinematics_joints_to_ee
            forward_kinematics_joints_to_ee_action forward_kinematics_joints_to_ee_observation
            gripper_penalty_processor gripper_velocity_to_joint groot_action_unpack_unnormalize_v1
            groot_eagle_collate_v3 groot_eagle_encode_v3 groot_pack_inputs_v3 gym_hil_adapter_processor
            image_crop_resize_processor intervention_action_processor inverse_kinematics_ee_to_joints
            inverse_kinematics_rl_step isaaclab_arena_processor joint_velocity_processor libero_processor
            map_delta_action_to_robot_action map_phone_action_to_robot_action map_tensor_to_delta_action_dict
            normalizer_processor numpy2torch_action_processor observation_processor
            pi05_prepare_state_tokenizer_processor_step pi0_fast_prepare_state_tokenizer_processor_step
            pi0_new_line_processor policy_action_to_robot_action_processor rename_observations_processor
            reward_classifier_processor robot_action_to_policy_action_processor smolvla_new_line_processor
            time_limit_processor to_batch_processor to_batch_processor_action to_batch_processor_complementary_data
            to_batch_processor_observation tokenizer_processor torch2numpy_action_processor unnormalizer_processor
            wall_x_task_processor xvla_add_domain_id xvla_image_scale xvla_image_to_float xvla_imagenet_normalize
            xvla_rotation_6d_to_axis_angle
        """),
        classes=_names("""
            lerobot.policies.groot.processor_groot.GrootActionUnpackUnnormalizeStep
            lerobot.policies.groot.processor_groot.GrootEagleCollateStep
            lerobot.policies.groot.processor_groot.GrootEagleEncodeStep
            lerobot.policies.groot.processor_groot.GrootPackInputsStep
            lerobot.policies.pi0.processor_pi0.Pi0NewLineProcessor
            lerobot.policies.pi05.processor_pi05.Pi05PrepareStateTokenizerProcessorStep
            lerobot.policies.pi0_fast.processor_pi0_fast.Pi0FastPrepareStateAndLanguageTokenizerProcessorStep
            lerobot.policies.sarm.processor_sarm.SARMEncodingProcessorStep
            lerobot.policies.smolvla.processor_smolvla.SmolVLANewLineProcessor
            lerobot.policies.wall_x.processor_wall_x.WallXTaskProcessor
            lerobot.policies.xvla.processor_xvla.LiberoProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLAAddDomainIdProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLAImageNetNormalizeProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLAImageScaleProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLAImageToFloatProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLARotation6DToAxisAngleProcessorStep
            lerobot.processor.batch_processor.AddBatchDimensionActionStep
            lerobot.processor.batch_processor.AddBatchDimensionComplementaryDataStep
            lerobot.processor.batch_processor.AddBatchDimensionObservationStep
            lerobot.processor.batch_processor.AddBatchDimensionProcessorStep
            lerobot.processor.delta_action_processor.MapDeltaActionToRobotActionStep
            lerobot.processor.delta_action_processor.MapTensorToDeltaActionDictStep
            lerobot.processor.device_processor.DeviceProcessorStep
            lerobot.processor.env_processor.IsaaclabArenaProcessorStep
            lerobot.processor.env_processor.LiberoProcessorStep
            lerobot.processor.gym_action_processor.Numpy2TorchActionProcessorStep
            lerobot.processor.gym_action_processor.Torch2NumpyActionProcessorStep
            lerobot.processor.hil_processor.AddTeleopActionAsComplimentaryDataStep
            lerobot.processor.hil_processor.AddTeleopEventsAsInfoStep
            lerobot.processor.hil_processor.GripperPenaltyProcessorStep
            lerobot.processor.hil_processor.GymHILAdapterProcessorStep
            lerobot.processor.hil_processor.ImageCropResizeProcessorStep
            lerobot.processor.hil_processor.InterventionActionProcessorStep
            lerobot.processor.hil_processor.RewardClassifierProcessorStep
            lerobot.processor.hil_processor.TimeLimitProcessorStep
            lerobot.processor.normalize_processor.NormalizerProcessorStep
            lerobot.processor.normalize_processor.UnnormalizerProcessorStep
            lerobot.processor.observation_processor.VanillaObservationProcessorStep
            lerobot.processor.pipeline.IdentityProcessorStep
            lerobot.processor.policy_robot_bridge.PolicyActionToRobotActionProcessorStep
            lerobot.processor.policy_robot_bridge.RobotActionToPolicyActionProcessorStep
            lerobot.processor.relative_action_processor.AbsoluteActionsProcessorStep
            lerobot.processor.relative_action_processor.RelativeActionsProcessorStep
            lerobot.processor.rename_processor.RenameObservationsProcessorStep
            lerobot.processor.tokenizer_processor.ActionTokenizerProcessorStep
            lerobot.processor.tokenizer_processor.TokenizerProcessorStep
            lerobot.rl.joint_observations_processor.JointVelocityProcessorStep
            lerobot.rl.joint_observations_processor.MotorCurrentProcessorStep
            lerobot.robots.so_follower.robot_kinematic_processor.EEBoundsAndSafety
            lerobot.robots.so_follower.robot_kinematic_processor.EEReferenceAndDelta
            lerobot.robots.so_follower.robot_kinematic_processor.ForwardKinematicsJointsToEE
            lerobot.robots.so_follower.robot_kinematic_processor.ForwardKinematicsJointsToEEAction
            lerobot.robots.so_follower.robot_kinematic_processor.ForwardKinematicsJointsToEEObservation
            lerobot.robots.so_follower.robot_kinematic_processor.GripperVelocityToJoint
            lerobot.robots.so_follower.robot_kinematic_processor.InverseKinematicsEEToJoints
            lerobot.robots.so_follower.robot_kinematic_processor.InverseKinematicsRLStep
            lerobot.teleoperators.phone.phone_processor.MapPhoneActionToRobotAction
        """),
        code_steps=_names("""
            action_tokenizer_processor groot_eagle_collate_v3 groot_eagle_encode_v3
            lerobot.policies.groot.processor_groot.GrootEagleCollateStep
            lerobot.policies.groot.processor_groot.GrootEagleEncodeStep
            lerobot.processor.hil_processor.RewardClassifierProcessorStep
            lerobot.processor.tokenizer_processor.ActionTokenizerProcessorStep reward_classifier_processor
        """),
        policies=_names("""
            act diffusion groot multi_task_dit pi0 pi05 pi0_fast reward_classifier sac sarm smolvla tdmpc vqbet
            wall_x xvla
        """),
        code_policies=_names("""
            groot pi0_fast reward_classifier sac wall_x
        """),
    ),
    # read from lerobot 0.6.1
    "0.6": Names(
        steps=_names("""
            absolute_actions_processor action_tokenizer_processor add_teleop_action_as_complementary_data
            add_teleop_action_as_info current_processor device_processor ee_bounds_and_safety ee_reference_and_delta
            eo1_conversation_template_processor eo1_qwen_processor evo1_action_processor evo1_pad_action_processor
            evo1_pad_state_processor fastwam_action_toggle_processor forward_kinematics_joints_to_ee
            forward_kinematics_joints_to_ee_action forward_kinematics_joints_to_ee_observation
            gripper_penalty_processor gripper_velocity_to_joint groot_action_unpack_unnormalize_v2
            groot_n1_7_action_decode_v1 groot_n1_7_pack_inputs_v1 groot_n1_7_vlm_encode_v1 gym_hil_adapter_processor
            image_crop_resize_processor intervention_action_processor inverse_kinematics_ee_to_joints
            inverse_kinematics_rl_step isaaclab_arena_processor joint_velocity_processor libero_processor
            map_delta_action_to_robot_action map_phone_action_to_robot_action map_tensor_to_delta_action_dict
            molmoact2_action_frame_transform molmoact2_clamp_action molmoact2_clamp_normalized
            molmoact2_masked_normalizer molmoact2_masked_unnormalizer molmoact2_pack_inputs
            molmoact2_state_frame_transform normalizer_processor numpy2torch_action_processor observation_processor
            pi05_prepare_state_tokenizer_processor_step pi0_fast_prepare_state_tokenizer_processor_step
            pi0_new_line_processor policy_action_to_robot_action_processor relative_actions_processor
            rename_observations_processor render_messages_processor reward_classifier_processor robometer_encoder
            robot_action_to_policy_action_processor smolvla_new_line_processor time_limit_processor
            to_batch_processor to_batch_processor_action to_batch_processor_complementary_data
            to_batch_processor_observation tokenizer_processor topreward_encoder torch2numpy_action_processor
            unnormalizer_processor vla_jepa_binarize_gripper vla_jepa_clip_actions vla_jepa_pre_snap_gripper
            wall_x_task_processor xvla_add_domain_id xvla_image_scale xvla_image_to_float xvla_imagenet_normalize
            xvla_rotation_6d_to_axis_angle
        """),
        classes=_names("""
            lerobot.policies.eo1.processor_eo1.EO1ConversationTemplateStep
            lerobot.policies.eo1.processor_eo1.EO1QwenProcessorStep
            lerobot.policies.evo1.processor_evo1.Evo1ActionProcessorStep
            lerobot.policies.evo1.processor_evo1.Evo1PadActionProcessorStep
            lerobot.policies.evo1.processor_evo1.Evo1PadStateProcessorStep
            lerobot.policies.fastwam.processor_fastwam.FastWAMActionToggleProcessorStep
            lerobot.policies.groot.processor_groot.GrootActionUnpackUnnormalizeStep
            lerobot.policies.groot.processor_groot.GrootN17ActionDecodeStep
            lerobot.policies.groot.processor_groot.GrootN17PackInputsStep
            lerobot.policies.groot.processor_groot.GrootN17VLMEncodeStep
            lerobot.policies.molmoact2.processor_molmoact2.MolmoAct2ActionFrameTransformStep
            lerobot.policies.molmoact2.processor_molmoact2.MolmoAct2ClampActionProcessorStep
            lerobot.policies.molmoact2.processor_molmoact2.MolmoAct2ClampNormalizedProcessorStep
            lerobot.policies.molmoact2.processor_molmoact2.MolmoAct2MaskedNormalizerProcessorStep
            lerobot.policies.molmoact2.processor_molmoact2.MolmoAct2MaskedUnnormalizerProcessorStep
            lerobot.policies.molmoact2.processor_molmoact2.MolmoAct2PackInputsProcessorStep
            lerobot.policies.molmoact2.processor_molmoact2.MolmoAct2StateFrameTransformStep
            lerobot.policies.pi0.processor_pi0.Pi0NewLineProcessor
            lerobot.policies.pi05.processor_pi05.Pi05PrepareStateTokenizerProcessorStep
            lerobot.policies.pi0_fast.processor_pi0_fast.Pi0FastPrepareStateAndLanguageTokenizerProcessorStep
            lerobot.policies.vla_jepa.processor_vla_jepa.BinarizeGripperProcessorStep
            lerobot.policies.vla_jepa.processor_vla_jepa.ClipActionsProcessorStep
            lerobot.policies.vla_jepa.processor_vla_jepa.PreSnapGripperProcessorStep
            lerobot.policies.wall_x.processor_wall_x.WallXTaskProcessor
            lerobot.policies.xvla.processor_xvla.LiberoProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLAAddDomainIdProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLAImageNetNormalizeProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLAImageScaleProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLAImageToFloatProcessorStep
            lerobot.policies.xvla.processor_xvla.XVLARotation6DToAxisAngleProcessorStep
            lerobot.processor.batch_processor.AddBatchDimensionActionStep
            lerobot.processor.batch_processor.AddBatchDimensionComplementaryDataStep
            lerobot.processor.batch_processor.AddBatchDimensionObservationStep
            lerobot.processor.batch_processor.AddBatchDimensionProcessorStep
            lerobot.processor.delta_action_processor.MapDeltaActionToRobotActionStep
            lerobot.processor.delta_action_processor.MapTensorToDeltaActionDictStep
            lerobot.processor.device_processor.DeviceProcessorStep
            lerobot.processor.env_processor.IsaaclabArenaProcessorStep
            lerobot.processor.env_processor.LiberoProcessorStep
            lerobot.processor.gym_action_processor.Numpy2TorchActionProcessorStep
            lerobot.processor.gym_action_processor.Torch2NumpyActionProcessorStep
            lerobot.processor.hil_processor.AddTeleopActionAsComplimentaryDataStep
            lerobot.processor.hil_processor.AddTeleopEventsAsInfoStep
            lerobot.processor.hil_processor.GripperPenaltyProcessorStep
            lerobot.processor.hil_processor.GymHILAdapterProcessorStep
            lerobot.processor.hil_processor.ImageCropResizeProcessorStep
            lerobot.processor.hil_processor.InterventionActionProcessorStep
            lerobot.processor.hil_processor.RewardClassifierProcessorStep
            lerobot.processor.hil_processor.TimeLimitProcessorStep
            lerobot.processor.newline_task_processor.NewLineTaskProcessorStep
            lerobot.processor.normalize_processor.NormalizerProcessorStep
            lerobot.processor.normalize_processor.UnnormalizerProcessorStep
            lerobot.processor.observation_processor.VanillaObservationProcessorStep
            lerobot.processor.pipeline.IdentityProcessorStep
            lerobot.processor.policy_robot_bridge.PolicyActionToRobotActionProcessorStep
            lerobot.processor.policy_robot_bridge.RobotActionToPolicyActionProcessorStep
            lerobot.processor.relative_action_processor.AbsoluteActionsProcessorStep
            lerobot.processor.relative_action_processor.RelativeActionsProcessorStep
            lerobot.processor.rename_processor.RenameObservationsProcessorStep
            lerobot.processor.render_messages_processor.RenderMessagesStep
            lerobot.processor.tokenizer_processor.ActionTokenizerProcessorStep
            lerobot.processor.tokenizer_processor.TokenizerProcessorStep
            lerobot.rewards.robometer.processor_robometer.RobometerEncoderProcessorStep
            lerobot.rewards.sarm.processor_sarm.SARMEncodingProcessorStep
            lerobot.rewards.topreward.processor_topreward.TOPRewardEncoderProcessorStep
            lerobot.rl.joint_observations_processor.JointVelocityProcessorStep
            lerobot.rl.joint_observations_processor.MotorCurrentProcessorStep
            lerobot.robots.so_follower.robot_kinematic_processor.EEBoundsAndSafety
            lerobot.robots.so_follower.robot_kinematic_processor.EEReferenceAndDelta
            lerobot.robots.so_follower.robot_kinematic_processor.ForwardKinematicsJointsToEE
            lerobot.robots.so_follower.robot_kinematic_processor.ForwardKinematicsJointsToEEAction
            lerobot.robots.so_follower.robot_kinematic_processor.ForwardKinematicsJointsToEEObservation
            lerobot.robots.so_follower.robot_kinematic_processor.GripperVelocityToJoint
            lerobot.robots.so_follower.robot_kinematic_processor.InverseKinematicsEEToJoints
            lerobot.robots.so_follower.robot_kinematic_processor.InverseKinematicsRLStep
            lerobot.teleoperators.phone.phone_processor.MapPhoneActionToRobotAction
        """),
        code_steps=_names("""
            action_tokenizer_processor groot_n1_7_vlm_encode_v1
            lerobot.policies.groot.processor_groot.GrootN17VLMEncodeStep
            lerobot.processor.hil_processor.RewardClassifierProcessorStep
            lerobot.processor.tokenizer_processor.ActionTokenizerProcessorStep
            lerobot.rewards.robometer.processor_robometer.RobometerEncoderProcessorStep
            lerobot.rewards.topreward.processor_topreward.TOPRewardEncoderProcessorStep reward_classifier_processor
            robometer_encoder topreward_encoder
        """),
        policies=_names("""
            act diffusion eo1 evo1 fastwam gaussian_actor groot lingbot_va molmoact2 multi_task_dit pi0 pi05
            pi0_fast smolvla tdmpc vla_jepa vqbet wall_x xvla
        """),
        code_policies=_names("""
            gaussian_actor groot pi0_fast wall_x
        """),
    ),
}
