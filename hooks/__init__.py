"""Hooks into training frameworks; installs as `vbdguard.hooks`.

    pretrain.guard_training            plain scripts, in one process or many
    lightning_guard.GuardCallback      Lightning: whatever fit() is given
    lightning_guard.guard_datamodule   Lightning: a DataModule, scanned in its prepare_data
    trainer_guard.guard_trainer        the Hugging Face Trainer
    timm_guard.guard_timm              timm, between create_dataset and create_loader
    receipt_check.main                 pre-commit, and no framework

Each framework is imported in its own file only.
"""
