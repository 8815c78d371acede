"""Published weights are grouped by the kind of training that their papers describe."""

import pytest

from harness.config.training_kind import kind_of_weights


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("torchvision/resnet50", "supervised"),
        ("timm/resnet50.a1_in1k", "supervised"),
        ("timm/vit_base_patch16_224.augreg_in21k_ft_in1k", "supervised"),
        ("timm/resnet50.fb_ssl_yfcc100m_ft_in1k", "semi-supervised"),
        ("timm/resnext50_32x4d.fb_swsl_ig1b_ft_in1k", "semi-supervised"),
        ("timm/tf_efficientnet_b0.ns_jft_in1k", "semi-supervised"),
        ("timm/hgnetv2_b0.ssld_stage2_ft_in1k", "semi-supervised"),
        ("timm/vit_small_patch16_224.dino", "self-supervised"),
        ("timm/vit_base_patch14_reg4_dinov2.lvd142m", "self-supervised"),
        ("timm/convnextv2_tiny.fcmae_ft_in1k", "self-supervised"),
        ("timm/beit_base_patch16_224.in22k_ft_in22k_in1k", "self-supervised"),
        ("timm/beitv2_base_patch16_224.in1k_ft_in22k_in1k", "self-supervised"),
        ("timm/eva_large_patch14_196.in22k_ft_in1k", "self-supervised"),
        ("timm/eva02_base_patch14_448.mim_in22k_ft_in1k", "self-supervised"),
        ("timm/eva_giant_patch14_224.clip_ft_in1k", "language-supervised"),
        ("timm/vit_base_patch16_clip_224.openai_ft_in1k", "language-supervised"),
    ],
)
def test_the_kind_follows_the_paper_of_the_weights(name: str, kind: str):
    assert kind_of_weights(name, has_head=True) == kind


def test_the_kind_of_features_without_a_known_word_is_unknown():
    assert kind_of_weights("timm/samvit_base_patch16.sa1b", has_head=False) is None
    assert kind_of_weights("timm/fastvit_mci0.apple_mclip", has_head=False) == "language-supervised"


def test_words_in_names_outside_of_timm_have_no_meaning():
    assert kind_of_weights("torchvision/my_dino", has_head=True) == "supervised"
