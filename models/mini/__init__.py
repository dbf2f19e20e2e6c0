"""duologue-mini: a small model of MiniCPM-o 4.5's architecture, trained from nothing on synthesised speech.

The parts, in the order in which they are used:

    world        what it can talk about: questions and answers                 (edit this file to teach it something)
    vocabulary   words -> tokens, tokenizer files
    engines      espeak-ng, flite and festival as libraries, with phone and word times
    speakers     voices, speaking rates and what a room does to them
    sessions     conversations: audio, and what the model should do in every second
    features     the streaming log-mel of the server
    layout       a session as the token sequence that the server feeds
    hearing      audio encoder + language model in trainable form
    train_hearing, judge_hearing   its training and its greedy evaluation
"""
