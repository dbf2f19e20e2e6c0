"""config.json, generation_config.json and preprocessor_config.json of a random checkpoint.

Flags that the duplex loop ignores (attention_type, losses, chunk sizes of other modes) carry the class defaults of
configuration_minicpmo.py, except where the release is known to differ."""

from duologue_export.tiny.dims import ApmDims, Dims, TtsDims, VisionDims
from duologue_export.tiny.llm_weights import TTS_CODES
from duologue_export.tiny.vocabulary import AUDIO_BOS_OFFSET, TEXT_EOS_OFFSET, Vocabulary

REMOTE = {
    "AutoConfig": "configuration_minicpmo.MiniCPMOConfig",
    "AutoModel": "modeling_minicpmo.MiniCPMO",
    "AutoModelForCausalLM": "modeling_minicpmo.MiniCPMO",
}


def config(dims: Dims, vocabulary: Vocabulary, rows: int, text_rows: int, dtype: str) -> dict:
    """config.json; `rows` and `text_rows` are the heights of the LLM's and the TTS's embedding."""
    d = dims.llm
    return {
        "architectures": ["MiniCPMO"],
        "model_type": "minicpmo",
        "version": "4.5",
        "auto_map": REMOTE,
        "torch_dtype": dtype,
        "transformers_version": "4.51.0",
        "vocab_size": rows,
        "hidden_size": d.hidden,
        "num_hidden_layers": d.layers,
        "num_attention_heads": d.heads,
        "num_key_value_heads": d.kv_heads,
        "head_dim": d.head_dim,
        "intermediate_size": d.ffn,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": d.rope_theta,
        "rope_scaling": None,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "sliding_window": 4096,
        "use_sliding_window": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": vocabulary.ids["<|endoftext|>"],
        "eos_token_id": vocabulary.ids["<|im_end|>"],
        "init_audio": True,
        "init_tts": True,
        "init_vision": True,
        "stream_input": True,
        "listen_speak_type": "asr",
        "audio_chunk_length": 1.0,
        "audio_pool_step": dims.apm.pool,
        "audio_config": _audio(dims.apm),
        "batch_vision_input": True,
        "drop_vision_last_layer": True,
        "image_size": 448,
        "patch_size": dims.vision.patch,
        "query_num": dims.vision.queries,
        "slice_mode": True,
        "use_image_id": True,
        "vision_batch_size": 16,
        "slice_config": {
            "max_slice_nums": 9,
            "model_type": "minicpmv",
            "patch_size": dims.vision.patch,
            "scale_resolution": 448,
        },
        "vision_config": _vision(dims.vision),
        "tts_config": _tts(dims.tts, d.hidden, text_rows, vocabulary.first_added),
    }


def _audio(d: ApmDims) -> dict:
    return {
        "model_type": "whisper",
        "d_model": d.hidden,
        "encoder_layers": d.layers,
        "encoder_attention_heads": d.heads,
        "encoder_ffn_dim": 4 * d.hidden,
        "num_hidden_layers": d.layers,
        "num_mel_bins": 80,
        "max_source_positions": d.max_positions,
        "activation_function": "gelu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "scale_embedding": False,
        "decoder_layers": 1,
        "decoder_attention_heads": d.heads,
        "decoder_ffn_dim": d.hidden,
        "vocab_size": 64,
        "max_target_positions": 448,
        "bos_token_id": 1,
        "decoder_start_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "use_cache": True,
    }


def _vision(d: VisionDims) -> dict:
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": d.hidden,
        "intermediate_size": d.ffn,
        "num_attention_heads": d.heads,
        "num_hidden_layers": d.layers + 1,
        "num_channels": 3,
        "image_size": 980,
        "patch_size": d.patch,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "attention_dropout": 0.0,
    }


def _tts(d: TtsDims, llm_hidden: int, text_rows: int, first_added: int) -> dict:
    return {
        "model_type": "minicpmtts",
        "hidden_size": d.hidden,
        "num_hidden_layers": d.layers,
        "num_attention_heads": d.heads,
        "num_key_value_heads": d.heads,
        "intermediate_size": d.ffn,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "num_audio_tokens": TTS_CODES,
        "num_text_tokens": text_rows,
        "num_mel_bins": 100,
        "num_vq": 1,
        "llm_dim": llm_hidden,
        "llm_dim_model_base": llm_hidden,
        "llm_hidden_size": llm_hidden,
        "llm_intermediate_size": 768,
        "llm_down_scale": False,
        "audio_bos_token_id": first_added + AUDIO_BOS_OFFSET,
        "text_eos_token_id": first_added + TEXT_EOS_OFFSET,
        "audio_tokenizer_sample_rate": 24000,
        "audio_tokenizer_type": "s3tokenizer_step_audio",
        "attn_implementation": "eager",
        "attention_type": "sliding_recompute",
        "backbone_model": "llama",
        "condition_type": "hidden_text_merge",
        "projector_type": "mlp",
        "normalize_projected_hidden": True,
        "interleaved": True,
        "streaming": True,
        "use_llm_hidden_state": False,
        "use_text": True,
        "window_size": 2,
        "recomputed_chunks": 1,
        "aug_layer_loss_weight": False,
        "aug_loss_weight": False,
        "filter_tts_loss": False,
        "tts_filter_loss_fix": False,
        "long_weight": 0.1,
        "short_weight": 0.1,
        "streaming_audio_chunk_size": 50,
        "streaming_sliding_window": False,
        "streaming_sliding_window_audio_frame_rate": 50,
        "streaming_sliding_window_audio_init_text_length": 10,
        "streaming_sliding_window_audio_window_size": 300,
        "streaming_sliding_window_average_speed": 5,
        "streaming_sliding_window_fast_speed": 7,
        "streaming_sliding_window_max_text_len": 500,
        "streaming_sliding_window_slow_speed": 3,
        "streaming_text_chunk_max": 7,
        "streaming_text_chunk_min": 3,
        "streaming_text_reserved_len": 300,
    }


def generation(vocabulary: Vocabulary) -> dict:
    """generation_config.json."""
    end, im_end = vocabulary.ids["<|endoftext|>"], vocabulary.ids["<|im_end|>"]
    return {
        "bos_token_id": end,
        "pad_token_id": end,
        "eos_token_id": [im_end, end],
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
    }


def preprocessor(dims: Dims) -> dict:
    """preprocessor_config.json: slicing and normalisation of images, pooling of audio."""
    return {
        "image_processor_type": "MiniCPMVImageProcessor",
        "feature_extractor_type": "MiniCPMAAudioProcessor",
        "processor_class": "MiniCPMOProcessor",
        "auto_map": {
            "AutoProcessor": "processing_minicpmo.MiniCPMOProcessor",
            "AutoImageProcessor": "processing_minicpmo.MiniCPMVImageProcessor",
            "AutoFeatureExtractor": "processing_minicpmo.MiniCPMAAudioProcessor",
        },
        "max_slice_nums": 9,
        "scale_resolution": 448,
        "patch_size": dims.vision.patch,
        "slice_mode": True,
        "use_image_id": True,
        "image_feature_size": dims.vision.queries,
        "norm_mean": [0.5] * 3,
        "norm_std": [0.5] * 3,
        "im_start": "<image>",
        "im_end": "</image>",
        "slice_start": "<slice>",
        "slice_end": "</slice>",
        "unk": "<unk>",
        "im_id_start": "<image_id>",
        "im_id_end": "</image_id>",
        "audio_pool_step": dims.apm.pool,
        "version": 4.5,
    }
