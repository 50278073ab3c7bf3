"""Which containers are opened, and what the first bytes of files tell when FFmpeg cannot open them."""

import os

from vcls_model.storage import open_for_reading

# Demuxers that read one file and nothing else. Not among them: playlists (hls, dash, concat, imf, sdp, ...), image
# sequences, devices, subtitle scripts and text art, each of which opens other files or takes any text for video.
CONTAINERS = (
    "4xm,aa,aac,ac3,ac4,acm,adx,aea,aiff,amr,amrnb,amrwb,apac,ape,apng,apv,asf,asf_o,au,av1,avi,avs,avs2,avs3,bfi,"
    "bink,binka,bonk,caf,cavsvideo,cdxl,cine,codec2,daud,dhav,dirac,dnxhd,dsf,dsicin,dss,dts,dtshd,dv,dxa,ea,eac3,"
    "evc,film_cpk,flac,flic,flv,frm,g722,g723_1,g726,g728,g729,gif,gsm,gxf,h261,h263,h264,hca,hevc,hxvs,iamf,idcin,"
    "iff,ilbc,ingenient,ipmovie,ipu,ircam,iv8,ivf,ivr,jv,kux,lc3,live_flv,lmlm4,loas,lvf,lxf,m4v,matroska,mjpeg,mlp,"
    "mm,mods,moflex,mov,mp3,mpc,mpc8,mpeg,mpegts,mpegvideo,mtv,musx,mv,mxf,nistsphere,nsv,nut,nuv,obu,ogg,oma,osq,"
    "paf,pmp,psxstr,pva,pvf,qcp,qoa,r3d,rka,rl2,rm,roq,rpl,sbc,ser,sga,shn,siff,smjpeg,smk,smush,sol,sox,svs,swf,tak,"
    "thp,tiertexseq,tmv,truehd,tta,ty,usm,vc1,vc1test,vivo,vmd,voc,vqf,vvc,w64,wav,wavarc,wc3movie,wsaud,wsvqa,wtv,"
    "wv,wve,xa,xmv,xwma,yop,yuv4mpegpipe"
)

# How files of Matroska, Ogg, FLAC, FLV, MPEG-PS, ASF, MXF, RealMedia, MP3 with tags, CAF and AMR begin.
_SIGNATURES = (
    *(b"\x1a\x45\xdf\xa3", b"OggS", b"fLaC", b"FLV\x01", b"\x00\x00\x01\xba", b"\x30\x26\xb2\x75"),
    *(b"\x06\x0e\x2b\x34", b".RMF", b"ID3", b"caff", b"#!AMR"),
)


def begins_like_media(head: bytes) -> bool:
    """Whether a file with these first bytes was meant to be audio or video."""
    return (
        head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp")
        or head.startswith(_SIGNATURES)
        or (head.startswith(b"RIFF") and head[8:12] in (b"AVI ", b"WAVE"))
        or (head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"))
        or head[:189:188] == b"GG"
    )


def is_cut(path: str) -> bool:
    """Whether a file of ISO/IEC 14496-12's boxes ends within the box that describes it (`moov`), or before any."""
    if not os.path.isfile(path):
        return False
    size, position = os.path.getsize(path), 0
    with open_for_reading(path) as file:
        while position + 8 <= size:
            file.seek(position)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if not kind.isalnum() or (length < 8 and length):
                return False
            if not length or position + length > size:
                return kind == b"moov" and length > 0
            position += length
    return False
