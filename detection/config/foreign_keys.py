"""Names that settings have in other packages, for the error message: ultralytics, detectron2, mmdetection, torchvision.

A name stands here only where it is not the ending of a key of ours; what it means there is what the remedy gives.
"""

from collections.abc import Sequence

_KEYS = {
    "batch_size": "batch train_batch samples_per_gpu batch_size_per_gpu per_gpu_batch_size images_per_batch bs",
    "batch_size or gradient_accumulation_steps": "ims_per_batch",
    "gradient_accumulation_steps": "accumulate accumulation accum grad_accum accumulative_counts nbs",
    "eval_batch_size": "val_batch val_batch_size test_batch_size",
    "detector.min_size and detector.max_size": "imgsz img_size image_size img_scale resolution imsize",
    "detector.min_size or data.augmentation.min_sizes": "min_size_train min_size_test multi_scale",
    "detector.max_size": "max_size_train max_size_test",
    "schedule.epochs": "num_epochs max_epochs n_epochs total_epochs",
    "schedule.epochs (updates are epochs times images by batch)": "max_iter max_iters iterations num_iters max_steps",
    "schedule.milestones (fractions of all updates), schedule.gamma": "lr_steps lr_step_size lr_milestones step_size",
    "schedule.gamma": "lr_gamma lrf",
    "schedule.kind": "lr_scheduler scheduler lr_schedule lr_scheduler_name lr_policy cos_lr cosine",
    "schedule.warmup (in updates)": "warmup_epochs warmup_iters warmup_steps lr_warmup_iters",
    "schedule.warmup_start": "warmup_factor warmup_ratio lr_warmup_decay warmup_bias_lr",
    "optimizer.lr": "lr0 learning_rate base_lr initial_lr",
    "optimizer.kind": "opt optim optimizer_name optimizer_type",
    "optimizer.weight_decay": "wd decay",
    "optimizer.norm_weight_decay": "norm_weight_decay_rate weight_decay_norm weight_decay_bias",
    "optimizer.clip_norm": "grad_clip clip_grad gradient_clip max_grad_norm clip_gradients clip_value max_norm",
    "optimizer.lr_multipliers": "paramwise_cfg backbone_multiplier lr_backbone bias_lr_factor",
    "optimizer.layer_decay": "layer_decay_rate lr_decay_rate layerwise_decay layer_decay_factor",
    "precision": "amp half fp16 bf16 mixed_precision use_amp autocast",
    "ema": "model_ema ema_decay use_ema",
    "early_stopping": "patience early_stop early_stopping_patience",
    "evaluate_every": "eval_period val_interval eval_interval eval_freq val_period",
    "checkpoint_minutes": "save_period checkpoint_period checkpoint_interval save_interval",
    "best_metric": "save_best fitness monitor",
    "data.workers": "num_workers workers_per_gpu n_workers dataloader_num_workers",
    "data.cache_megabytes": "cache cache_images",
    "data.aspect_grouping": "aspect_ratio_group_factor aspect_ratio_grouping rect",
    "data.repeat_threshold": "repeat_thr oversample_thr repeat_factor sampler_train repeat_factor_threshold",
    "data.augmentation": "augment augmentations transforms data_augmentation hyp",
    "data.augmentation.horizontal_flip": "fliplr random_flip hflip flip_prob hflip_prob",
    "data.augmentation.vertical_flip": "flipud vflip",
    "data.augmentation.photometric": "hsv_h hsv_s hsv_v color_jitter photometric_distortion",
    "data.augmentation.jitter": "translate random_affine shear degrees",
    "data.augmentation.crop": "random_crop crop_prob",
    "data.augmentation.extra (any albumentations transform)": "mosaic mixup copy_paste erasing cutout cutmix albu",
    "data.train.annotations": "ann_file train_ann train_annotations annotation_file annotations_file train_json",
    "data.train.images": "train_images train_dir img_prefix data_prefix image_dir images_dir data_root",
    "data.val.annotations": "val_ann val_annotations val_json",
    "data.val.images": "val_images val_dir",
    "data.train.annotations and data.train.images, and the same of data.val": "dataset data_path datasets dataset_file",
    "detector.backbone": "arch encoder",
    "detector.weights": "pretrained checkpoint ckpt load_from weights_backbone resume_from init_checkpoint pretrain",
    "freeze (such as freeze.c2=none)": "freeze_at frozen_stages trainable_backbone_layers freeze_backbone",
    "detector.head.nms_threshold": "iou iou_thres iou_thresh iou_threshold nms nms_thr nms_thresh nms_thresh_test "
    "nms_iou_threshold box_nms_thresh",
    "detector.head.score_threshold": "conf conf_thres conf_thresh confidence score_thr score_thresh box_score_thresh "
    "score_thresh_test threshold min_score",
    "detector.head.detections_per_image": "max_det max_per_img max_dets detections_per_img box_detections_per_img",
    "detector.head.batch_size_per_image": "box_batch_size_per_image roi_batch_size",
    "detector.regions": "rpn rpn_head rpn_config anchors anchor_generator",
    "detector.regions.pre_nms_top_n": "rpn_pre_nms_top_n nms_pre",
    "detector.regions.post_nms_top_n": "rpn_post_nms_top_n",
    "detector.head": "roi_head bbox_head box_head roi_heads",
    "detector.pool": "box_roi_pool roi_extractor bbox_roi_extractor roi_pool roi_align",
    "detector.inference.flip": "tta test_aug aug_test",
    "seed": "random_seed manual_seed rng_seed",
}
_OPTIONS = {
    "--device": "device gpu gpus gpu_id cuda accelerator",
    "--output": "project output output_dir work_dir save_dir out_dir logdir log_dir exp_name exist_ok",
    "--resume": "resume auto_resume",
}
_NOTES = {
    "num_classes nc n_classes classes names": "the number of classes and their names come from the categories of the "
    "annotation file.",
    "world_size num_gpus nproc_per_node num_processes dist distributed": "processes are those of `torchrun "
    "--nproc-per-node N -m detection.cli.train …`.",
}
_REMEDY = {name: f"here it is {key}." for key, names in _KEYS.items() for name in names.split()}
_REMEDY |= {name: f"it is an option: {option}." for option, names in _OPTIONS.items() for name in names.split()}
_REMEDY |= {name: note for names, note in _NOTES.items() for name in names.split()}


def foreign_key(key: str, known: Sequence[str]) -> str:
    """Return the remedy for a key of another package, by its last name in any case (`SOLVER.BASE_LR`); empty for none.

    Args:
        key: as typed.
        known: the keys that there are; a remedy that names another is none.
    """
    remedy = _REMEDY.get(key.rpartition(".")[2].lower().lstrip("-").replace("-", "_"), "")
    named = remedy.removeprefix("here it is ").split()[0].rstrip(".,") if remedy.startswith("here") else ""
    return remedy if not named or named in known else ""
