/* Load generator: closed loop (rate 0) or fixed rate, keep-alive HTTP/1.1 POST, streaming aware.
 * usage: load -p PORT [-P path] -b bodyfile -c conns -d seconds [-n maxreq] [-r req/s] [-H "K: V"]... [-U unixsock]
 * prints one JSON line: requests, errors, rps, latency us p50/p90/p99/max, TTFT (first t= marker),
 * chunk one-way delay, and end: from the last marker to the last byte. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#define NB 65536
typedef struct { int fd; char b[NB+1]; int n; int busy; uint64_t t0, last; int hdr; long clen; int chunked; long got; int ttft; char tail[32]; int tl; int status; } conn;
static uint64_t now_us(void){struct timespec t;clock_gettime(CLOCK_MONOTONIC,&t);return (uint64_t)t.tv_sec*1000000+t.tv_nsec/1000;}
typedef struct {uint32_t*v; size_t n,cap;} vec; static void push(vec*v,uint32_t x){ if(v->n==v->cap){v->cap=v->cap?v->cap*2:65536;v->v=realloc(v->v,v->cap*4);} v->v[v->n++]=x; }
static int cmp(const void*a,const void*b){uint32_t x=*(uint32_t*)a,y=*(uint32_t*)b;return x<y?-1:x>y;}
static void pr(const char*nm,vec*v){ if(!v->n){printf("\"%s\":null,",nm);return;} qsort(v->v,v->n,4,cmp); double s=0; for(size_t i=0;i<v->n;i++)s+=v->v[i]; printf("\"%s\":{\"n\":%zu,\"mean\":%.1f,\"p50\":%u,\"p90\":%u,\"p99\":%u,\"p999\":%u,\"max\":%u},",nm,v->n,s/v->n,v->v[v->n/2],v->v[(size_t)(v->n*.9)],v->v[(size_t)(v->n*.99)],v->v[(size_t)(v->n*.999)],v->v[v->n-1]); }
static vec L,F,K,E; static int port=8000; static const char*ux=0; static char*req; static int rl; static int ep; static unsigned long errs=0,done=0,non2=0; 
static int dial(conn*c,int i){ int one=1; if(ux){ c->fd=socket(AF_UNIX,SOCK_STREAM,0); struct sockaddr_un a={.sun_family=AF_UNIX}; strcpy(a.sun_path,ux); if(connect(c->fd,(void*)&a,sizeof a)) return -1; }
  else { c->fd=socket(AF_INET,SOCK_STREAM,0); struct sockaddr_in a={.sin_family=AF_INET,.sin_port=htons(port),.sin_addr.s_addr=htonl(INADDR_LOOPBACK)}; if(connect(c->fd,(void*)&a,sizeof a)) return -1; setsockopt(c->fd,IPPROTO_TCP,TCP_NODELAY,&one,4);} 
  fcntl(c->fd,F_SETFL,O_NONBLOCK); struct epoll_event e={.events=EPOLLIN,.data.u32=i}; epoll_ctl(ep,EPOLL_CTL_ADD,c->fd,&e); return 0; }
static void fire(conn*c,uint64_t t0){ c->busy=1;c->n=0;c->hdr=0;c->got=0;c->ttft=0;c->tl=0;c->chunked=0;c->clen=-1;c->t0=t0; c->last=0; int o=0; while(o<rl){int r=send(c->fd,req+o,rl-o,MSG_NOSIGNAL); if(r<0){ if(errno==EAGAIN){usleep(20);continue;} break;} o+=r;} }
static void marks(conn*c,const char*b,int n,uint64_t now){ const char*p=b,*e=b+n; while(p<e&&(p=memmem(p,e-p,"t=",2))){ if(e-p<18)break; int ok=1; uint64_t v=0; for(int i=0;i<16;i++){ if(p[2+i]<'0'||p[2+i]>'9'){ok=0;break;} v=v*10+p[2+i]-'0'; } if(ok){ c->last=now; push(&K,(uint32_t)(now-v)); if(!c->ttft){c->ttft=1;push(&F,(uint32_t)(now-c->t0));} p+=18;} else p+=2; } }
int main(int ac,char**av){ const char*path="/v1/chat/completions",*bf=0; int nc=1; double dur=5,rate=0; unsigned long maxn=0; char hd[4096]=""; int o;
  while((o=getopt(ac,av,"p:P:b:c:d:n:r:H:U:"))!=-1) switch(o){case 'p':port=atoi(optarg);break;case 'P':path=optarg;break;case 'b':bf=optarg;break;case 'c':nc=atoi(optarg);break;case 'd':dur=atof(optarg);break;case 'n':maxn=atol(optarg);break;case 'r':rate=atof(optarg);break;case 'H':strcat(hd,optarg);strcat(hd,"\r\n");break;case 'U':ux=optarg;break;}
  char*body=calloc(1,1<<22); int bl=0; if(bf){FILE*f=fopen(bf,"r");bl=fread(body,1,(1<<22)-1,f);fclose(f);} req=malloc(bl+8192);
  rl=sprintf(req,"POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nAccept: */*\r\nUser-Agent: bench/1\r\n%sContent-Length: %d\r\n\r\n",path,port,hd,bl); memcpy(req+rl,body,bl); rl+=bl;
  signal(SIGPIPE,SIG_IGN); ep=epoll_create1(0); conn*C=calloc(nc,sizeof(conn)); for(int i=0;i<nc;i++) if(dial(&C[i],i)){perror("connect");return 1;}
  uint64_t st=now_us(),end=st+(uint64_t)(dur*1e6); double gap=rate>0?1e6/rate:0; double nextf=st; unsigned long sent=0; int hs[2]={0,0}; (void)hs;
  if(!gap) for(int i=0;i<nc;i++){fire(&C[i],now_us());sent++;}
  struct epoll_event ev[256]; uint64_t t=st; unsigned long inflight=gap?0:nc; uint64_t last=st;
  for(;;){ t=now_us(); int stop=t>=end||(maxn&&sent>=maxn); if(stop&&!inflight) break; if(t>=end+15000000) {errs+=inflight;break;}
    if(gap&&!stop) while(nextf<=t&&!(maxn&&sent>=maxn)){ int j=-1; for(int i=0;i<nc;i++) if(!C[i].busy){j=i;break;} if(j<0)break; fire(&C[j],(uint64_t)nextf); sent++; inflight++; nextf+=gap; }
    int to=100; if(gap&&!stop){ double d=nextf-t; to=d<=0?1:(int)(d/1000); if(to>100)to=100; }
    int r=epoll_wait(ep,ev,256,to); uint64_t now=now_us();
    for(int q=0;q<r;q++){ conn*c=&C[ev[q].data.u32]; int k=recv(c->fd,c->b+c->n,NB-c->n,0); if(k<0&&errno==EAGAIN)continue; now=now_us();
      int fin=0; if(k<=0){ if(c->busy){ if(c->hdr&&!c->chunked&&c->clen<0) fin=1; else {errs++; c->busy=0; inflight--; } } close(c->fd); if(dial(c,ev[q].data.u32)) {perror("redial");return 1;} if(!fin){ if(!gap&&now<end&&!(maxn&&sent>=maxn)){fire(c,now);sent++;inflight++;} continue; } }
      else { c->n+=k; c->b[c->n]=0; char*bd=c->b; int bn=c->n;
        if(!c->hdr){ char*h=strstr(c->b,"\r\n\r\n"); if(!h) continue; c->hdr=1; c->status=atoi(c->b+9); char*p=c->b; while((p=strstr(p,"\r\n"))&&p<h){p+=2; if(!strncasecmp(p,"content-length:",15))c->clen=atol(p+15); else if(!strncasecmp(p,"transfer-encoding: chunked",26))c->chunked=1;} bd=h+4; bn=c->n-(bd-c->b); }
        c->got+=bn; marks(c,bd,bn,now);
        if(c->chunked){ int tn=bn>5?5:bn; if(bn>=5){memcpy(c->tail,bd+bn-5,5);c->tl=5;} else { memmove(c->tail,c->tail+(c->tl+tn>5?c->tl+tn-5:0),c->tl+tn>5?5-tn:c->tl); c->tl=c->tl+tn>5?5:c->tl+tn; memcpy(c->tail+c->tl-tn,bd,tn);} if(c->tl==5&&!memcmp(c->tail,"0\r\n\r\n",5)) fin=1; }
        else if(c->clen>=0&&c->got>=c->clen) fin=1;
        /* keep a partial marker for the next read */
        if(!fin){ int keep=bn>17?17:bn; /* a marker cut across reads is lost; negligible */ keep=0; memmove(c->b,bd+bn-keep,keep); c->n=keep; } }
      if(fin){ done++; if(c->status<200||c->status>=300)non2++; push(&L,(uint32_t)(now-c->t0)); if(c->last)push(&E,(uint32_t)(now-c->last)); c->busy=0; inflight--; last=now; if(!gap&&now<end&&!(maxn&&sent>=maxn)){fire(c,now_us());sent++;inflight++;} } } }
  double el=(last-st)/1e6; if(el<=0)el=1e-9; printf("{\"done\":%lu,\"errs\":%lu,\"non2xx\":%lu,\"sec\":%.3f,\"rps\":%.1f,",done,errs,non2,el,done/el); pr("lat",&L); pr("ttft",&F); pr("chunk",&K); pr("end",&E); printf("\"x\":0}\n"); }
